"""The JSON of outcomes as `vqa.results` writes it, for programs in other languages; docs/wire.md refers to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from vqa.answer import Answer, Outgoing


class PastAttempt(Outgoing):
    """An attempt that ended without an outcome. Times are in ms on Redis's clock."""

    attempt: int
    worker: str
    taken: int
    ended: int
    error: str = Field(description="as `Class: message`")


class Times(Outgoing):
    """When a job was accepted and taken, in ms on Redis's clock."""

    accepted: int
    lane: str
    taken: int | None = Field(default=None, description="the last attempt's begin")
    worker: str | None = None
    attempts: tuple[PastAttempt, ...] = Field(default=(), description="up to 5 before the last one, oldest first")


class _Outcome(Outgoing):
    task_id: str = Field(description="the job's id")
    trace: str | None = Field(default=None, description="W3C traceparent, if the job has one")
    times: Times | None = None
    date_done: str | None = Field(default=None, description="ISO 8601, UTC")


class AnsweredOutcome(_Outcome):
    """The job got an answer."""

    status: Literal["SUCCESS"]
    result: Answer


class OutcomeError(Outgoing):
    """An error of vqa.errors."""

    exc_type: str = Field(description="the error's class: InvalidJob, BadImage, DeadlineExceeded, ...")
    exc_message: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="one text, without user data")
    exc_module: str


class FailedOutcome(_Outcome):
    """The job ended with an error."""

    status: Literal["FAILURE"]
    result: OutcomeError
    attempts: int = Field(default=0, description="attempts of the job; 0 if it never ran")
    last_error: str | None = Field(default=None, description="the last transient error, as `Class: message`")


def outcome_schema() -> dict[str, Any]:
    """Return the JSON Schema of the value of `celery-task-meta-{id}`. Later releases may add fields."""
    outcome = Annotated[AnsweredOutcome | FailedOutcome, Field(discriminator="status")]
    return TypeAdapter(outcome).json_schema()
