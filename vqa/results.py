"""Outcomes, which are answers or errors, in the format of Celery's result backend.

`AsyncResult(id).get()` in any Celery app reads them, too: it returns a dictionary or raises the error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import states
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend, SentinelBackend
from pydantic import ValidationError

from vqa.answer import Answer
from vqa.errors import VQAError

#: the beginning of an outcome that has a trace; an id has no quotes
_TRACE = re.compile(rb'\{"task_id": ?"[^"\\]*", ?"trace": ?"([0-9a-f-]{55})"')


@dataclass(frozen=True, slots=True)
class Tally:
    """What a closed job adds to the counts of its batch."""

    #: `VQAError.code()`, or '' for an answer
    code: str = "unknown"
    worker: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _LedgerWritesRevoked:
    """Leaves the outcome of a revoked task to the ledger's `close`."""

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state == states.REVOKED:
            return result
        return super()._store_result(task_id, result, state, *args, **kwargs)  # type: ignore[misc]  # of the backend beside it


class OutcomeBackend(_LedgerWritesRevoked, RedisBackend):  # type: ignore[misc]  # celery has no types
    """Celery's result backend for a Redis server."""


class SentinelOutcomeBackend(_LedgerWritesRevoked, SentinelBackend):  # type: ignore[misc]  # celery has no types
    """Celery's result backend for a master behind Sentinels."""


Outcome = Answer | VQAError


def encode(
    backend: Backend,
    id: str,
    outcome: Outcome,
    attempts: int = 0,
    last_error: str | None = None,
    *,
    trace: str | None = None,
    times: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the outcome as JSON; `attempts` and `last_error` are stored with an error (an answer has its own).

    `trace` is the job's traceparent, `times` what `Header.times` returns.
    """
    meta: dict[str, Any] = {"task_id": id}
    if trace:
        # second, where `trace_of` looks for it
        meta["trace"] = trace
    meta |= {"traceback": None, "children": [], "date_done": datetime.now(UTC).isoformat()}
    if times:
        meta["times"] = times
    if isinstance(outcome, Answer):
        meta |= {"status": states.SUCCESS, "result": outcome.model_dump(mode="json", exclude_none=True)}
    else:
        error = backend.prepare_exception(outcome, "json")
        meta |= {"status": states.FAILURE, "result": error, "attempts": attempts, "last_error": last_error}
    encoded: str | bytes = backend.encode(meta)
    return encoded.encode() if isinstance(encoded, str) else encoded


def trace_of(data: bytes) -> str | None:
    """Return the traceparent in an outcome that `encode` wrote, without decoding the outcome."""
    found = _TRACE.match(data)
    return found[1].decode() if found else None


def tally(outcome: Outcome) -> Tally:
    """Return what the outcome adds to the counts of the job's batch."""
    if isinstance(outcome, VQAError):
        return Tally(outcome.code())
    usage = outcome.usage
    tokens = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens
    return Tally("", outcome.worker, *tokens)


def decode(backend: Backend, data: bytes) -> Outcome:
    """Return the outcome that `encode` wrote. Never raises: whatever else is found becomes a VQAError that says what.

    Another app's exception becomes one that names its class.
    """
    try:
        meta = backend.decode_result(data)
    except Exception as error:
        # JSON that is broken or too deep, or a class that Celery refuses to make
        return _unreadable(f"it cannot be read: {type(error).__name__}")
    if not isinstance(meta, dict) or "status" not in meta or "result" not in meta:
        return _unreadable("it is no object with status and result")
    result = meta["result"]
    if meta["status"] == states.SUCCESS:
        try:
            return Answer.model_validate(result)
        except ValidationError:
            return _unreadable("its result is no answer")
    if not isinstance(result, VQAError):
        result = VQAError(f"the task ended with {type(result).__name__}, which is no outcome of vqa")
    attempts, last_error = meta.get("attempts"), meta.get("last_error")
    result.attempts = attempts if isinstance(attempts, int) else 0
    result.last_error = last_error if isinstance(last_error, str) else None
    return result


def _unreadable(why: str) -> VQAError:
    return VQAError(
        f"the job's outcome is none that this version of vqa can read ({why}): a newer vqa or another program "
        "wrote it; submit the job again under another id"
    )
