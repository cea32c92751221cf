"""Answers: the text that a job got, with usage and timings, as immutable pydantic models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Outgoing(BaseModel):
    """An immutable model that ignores unknown fields: workers are upgraded before producers."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Usage(Outgoing):
    """Prompt and answer tokens; images count as the tokens that they become."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Timings(Outgoing):
    """How long an answered job took, in seconds; what `total_s` has beyond the parts was overhead."""

    #: from acceptance until this attempt began, including earlier attempts and their delays
    queued_s: float = Field(ge=0)
    #: to fetch and decode the images
    media_s: float = Field(ge=0)
    #: in the engine, including the wait for a slot
    engine_s: float = Field(ge=0)
    #: from acceptance to the answer
    total_s: float = Field(ge=0)


class Answer(Outgoing):
    """The answer to a job."""

    id: str
    text: str
    #: `stop`: end of text or a stop string; `length`: max_new_tokens was reached
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    #: the value of a structured answer: its parsed JSON, or the choice
    parsed: Any = None
    model: str
    #: Celery node name of the worker, for example card0@host
    worker: str
    #: number of the attempt that succeeded, from 1
    attempt: int = Field(ge=1)
    #: the answer of an earlier job with the same question was reused: text, usage, model and worker are that job's
    reused: bool = False
    #: error of the previous attempt, as `Class: message`
    last_error: str | None = None
