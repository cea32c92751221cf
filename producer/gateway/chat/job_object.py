"""A job's state as an object of the API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from producer.client.states import JobState
from producer.gateway.chat.completion_schema import ChatCompletion
from producer.gateway.context import Context
from producer.gateway.errors import NotFound, error_object
from producer.gateway.openapi.error_schema import ErrorObject
from producer.ids import is_owner
from producer.openai.chat_completion import chat_completion
from vqa.answer import Answer
from vqa.errors import AnswerTimeout, Cancelled, UnknownJob, VQAError
from vqa.jobs.lane import Lane
from vqa.results import Outcome

#: of the ids of chat completions, which are their jobs' ids
PREFIX = "chatcmpl"

Status = Literal["queued", "running", "delayed", "completed", "failed", "cancelled"]

#: `waiting` is a detail of lane bulk; a damaged entry is set aside within seconds
_STATUS: Mapping[str, Status] = {
    "waiting": "queued",
    "queued": "queued",
    "leased": "running",
    "delayed": "delayed",
    "answered": "completed",
    "damaged": "failed",
    "failed": "failed",
    "given_up": "failed",
}


class JobObject(BaseModel):
    """Where a job stands, or how it ended."""

    id: str = Field(examples=["chatcmpl_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    object: Literal["vqa.job"] = "vqa.job"
    status: Status = Field(description="delayed: it is tried again after an error")
    lane: Lane | None = Field(default=None, description="of an open job")
    attempt: int = Field(default=0, description="attempts so far")
    worker: str | None = Field(default=None, description="the worker that runs it or answered it")
    deadline: int | None = Field(default=None, description="of an open job: seconds since 1970")
    remaining_s: float | None = Field(default=None, description="of an open job: seconds until the deadline")
    completion: ChatCompletion | None = Field(default=None, description="the answer of a completed job")
    error: ErrorObject | None = Field(default=None, description="why the job failed")


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job as an object of the API, with its answer if there is one."""

    job: JobObject
    answer: Answer | None


def check_owner(id: str, tenant: str | None) -> None:
    """Raise NotFound unless the job belongs to the tenant."""
    if not is_owner(id, PREFIX, tenant):
        raise not_found(id)


def not_found(id: str) -> NotFound:
    # the id may be anything: only its length is bounded by the URL's
    return NotFound(f"there is no job {id[:80] if id.isascii() and id.isprintable() else ''}".rstrip(), param="id")


async def read_job(context: Context, id: str, wait_s: float = 0) -> FoundJob:
    """Wait at most `wait_s` for the job's end, and tell where it stands. Raises NotFound, QueueUnavailable."""
    outcome = await _outcome(context, id, wait_s)
    if isinstance(outcome, AnswerTimeout | UnknownJob):
        state = (await context.client.states([id]))[id]
        if state.state == "unknown":
            raise not_found(id)
        if state.state not in ("answered", "failed"):
            return FoundJob(_unfinished(state), None)
        # it ended between the two looks
        outcome = await _outcome(context, id, 0)
    return _ended(id, outcome)


async def _outcome(context: Context, id: str, wait_s: float) -> Outcome:
    [(_, outcome)] = [pair async for pair in context.client.answers([id], wait_s)]
    return outcome


def _unfinished(state: JobState) -> JobObject:
    failed = _STATUS[state.state] == "failed"
    return JobObject(
        id=state.id,
        status=_STATUS[state.state],
        lane=state.lane,
        attempt=state.attempt,
        worker=state.worker,
        deadline=None if state.remaining_s is None else round(time.time() + state.remaining_s),
        remaining_s=None if state.remaining_s is None else max(0.0, state.remaining_s),
        error=_error(VQAError(state.error or "the job was given up")) if failed else None,
    )


def _ended(id: str, outcome: Outcome) -> FoundJob:
    if isinstance(outcome, Answer):
        completion = ChatCompletion.model_validate(chat_completion(outcome))
        job = JobObject(
            id=id, status="completed", attempt=outcome.attempt, worker=outcome.worker, completion=completion
        )
        return FoundJob(job, outcome)
    status: Status = "cancelled" if isinstance(outcome, Cancelled) else "failed"
    return FoundJob(JobObject(id=id, status=status, attempt=outcome.attempts, error=_error(outcome)), None)


def _error(error: VQAError) -> ErrorObject:
    fields: dict[str, Any] = error_object(error)
    return ErrorObject(**fields)
