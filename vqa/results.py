"""Outcomes, which are answers or errors, in the format of Celery's result backend.

`AsyncResult(id).get()` in any Celery app reads them, too: it returns a dictionary or raises the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import states
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend, SentinelBackend

from vqa.answer import Answer
from vqa.errors import VQAError


@dataclass(frozen=True, slots=True)
class Tally:
    """What a closed job adds to the counts of its batch."""

    #: `VQAError.code()`, or '' for an answer
    code: str = "unknown"
    worker: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _LedgerWritesRevoked:
    """Leaves the outcome of a revoked task to the ledger's `close`."""

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state == states.REVOKED:
            return result
        return super()._store_result(task_id, result, state, *args, **kwargs)  # type: ignore[misc]


class OutcomeBackend(_LedgerWritesRevoked, RedisBackend):  # type: ignore[misc]  # celery has no types
    """Celery's result backend for a Redis server."""


class SentinelOutcomeBackend(_LedgerWritesRevoked, SentinelBackend):  # type: ignore[misc]  # celery has no types
    """Celery's result backend for a master behind Sentinels."""


Outcome = Answer | VQAError


def encode(backend: Backend, id: str, outcome: Outcome, attempts: int = 0, last_error: str | None = None) -> bytes:
    """Return the outcome as JSON; `attempts` and `last_error` are stored with an error (an answer has its own)."""
    meta: dict[str, Any] = {"task_id": id, "traceback": None, "children": []}
    meta["date_done"] = datetime.now(UTC).isoformat()
    if isinstance(outcome, Answer):
        meta |= {"status": states.SUCCESS, "result": outcome.model_dump(mode="json", exclude_none=True)}
    else:
        error = backend.prepare_exception(outcome, "json")
        meta |= {"status": states.FAILURE, "result": error, "attempts": attempts, "last_error": last_error}
    encoded: str | bytes = backend.encode(meta)
    return encoded.encode() if isinstance(encoded, str) else encoded


def tally(outcome: Outcome) -> Tally:
    """Return what the outcome adds to the counts of the job's batch."""
    if isinstance(outcome, VQAError):
        return Tally(outcome.code())
    return Tally("", outcome.worker, outcome.usage.prompt_tokens, outcome.usage.completion_tokens)


def decode(backend: Backend, data: bytes) -> Outcome:
    """Return the outcome that `encode` wrote. Another app's exception becomes a VQAError that names its class."""
    meta = backend.decode_result(data)
    result = meta["result"]
    if meta["status"] == states.SUCCESS:
        return Answer.model_validate(result)
    if not isinstance(result, VQAError):
        result = VQAError(f"the task ended with {type(result).__name__}, which is no outcome of vqa")
    result.attempts = meta.get("attempts", 0)
    result.last_error = meta.get("last_error")
    return result
