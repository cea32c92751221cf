"""How a job ended, in the form in which Celery's result backend keeps results: an answer or a named error.

A plain `AsyncResult(id).get()` in any Celery app reads the same bytes, as a dictionary or as the error raised.
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
    """What a batch counts of a job that ended."""

    #: `VQAError.code()`; '' for an answer
    code: str = "unknown"
    worker: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Outcomes:
    """Encodes, decodes and waits as its sibling does."""

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state == states.REVOKED:
            return result
        return super()._store_result(task_id, result, state, *args, **kwargs)  # type: ignore[misc]


class OutcomeBackend(_Outcomes, RedisBackend):  # type: ignore[misc]  # celery has no types
    """For one Redis."""


class SentinelOutcomeBackend(_Outcomes, SentinelBackend):  # type: ignore[misc]  # celery has no types
    """For the master that Sentinels know."""


Outcome = Answer | VQAError


def encode(backend: Backend, id: str, outcome: Outcome, attempts: int = 0, last_error: str | None = None) -> bytes:
    """The outcome as bytes of JSON; `attempts` and `last_error` travel with an error (an answer has its own)."""
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
    """What the job's batch counts."""
    if isinstance(outcome, VQAError):
        return Tally(outcome.code())
    return Tally("", outcome.worker, outcome.usage.prompt_tokens, outcome.usage.completion_tokens)


def decode(backend: Backend, data: bytes) -> Outcome:
    """What `encode` wrote; an error keeps its class. Something else's exception becomes a VQAError naming it."""
    meta = backend.decode_result(data)
    result = meta["result"]
    if meta["status"] == states.SUCCESS:
        return Answer.model_validate(result)
    if not isinstance(result, VQAError):
        result = VQAError(f"the task ended with {type(result).__name__}, not with an outcome of vqa")
    result.attempts = meta.get("attempts", 0)
    result.last_error = meta.get("last_error")
    return result
