"""The JSON of outcomes as `vqa.results` writes it, for programs in other languages; docs/wire.md refers to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from vqa.answer import Answer, Outgoing


class AnsweredOutcome(Outgoing):
    """The job got an answer."""

    task_id: str = Field(description="the job's id")
    status: Literal["SUCCESS"]
    result: Answer
    date_done: str | None = Field(default=None, description="ISO 8601, UTC")


class OutcomeError(Outgoing):
    """An error of vqa.errors."""

    exc_type: str = Field(description="the error's class: InvalidJob, BadImage, DeadlineExceeded, ...")
    exc_message: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="one text, without user data")
    exc_module: str


class FailedOutcome(Outgoing):
    """The job ended with an error."""

    task_id: str = Field(description="the job's id")
    status: Literal["FAILURE"]
    result: OutcomeError
    date_done: str | None = Field(default=None, description="ISO 8601, UTC")
    attempts: int = Field(default=0, description="attempts of the job; 0 if it never ran")
    last_error: str | None = Field(default=None, description="the last transient error, as `Class: message`")


def outcome_schema() -> dict[str, Any]:
    """Return the JSON Schema of the value of `celery-task-meta-{id}`. Later releases may add fields."""
    outcome = Annotated[AnsweredOutcome | FailedOutcome, Field(discriminator="status")]
    return TypeAdapter(outcome).json_schema()
