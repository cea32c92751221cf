"""The answer: the text a job got, with usage and timings. Frozen types with one door in and out of JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Outgoing(BaseModel):
    """Immutable; a field that only a newer worker knows is passed over, since workers are upgraded first."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Usage(Outgoing):
    """Tokens in and out; images count as the tokens they become."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)

    @property
    def total_tokens(self) -> int:
        """Tokens in and out together."""
        return self.prompt_tokens + self.completion_tokens


class Timings(Outgoing):
    """Where an answered job spent its time, in seconds; what is in none of the parts was spent on the way."""

    #: accepted until this attempt was taken, earlier attempts and their delays included
    queued_s: float = Field(ge=0)
    #: fetching and decoding its images
    media_s: float = Field(ge=0)
    #: handed to the engine until the engine was done, waiting for a slot included
    engine_s: float = Field(ge=0)
    #: accepted until answered
    total_s: float = Field(ge=0)


class Answer(Outgoing):
    """What a job got."""

    id: str
    text: str
    #: `stop` is an end of text or a stop string; `length` is max_new_tokens
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    #: the value of a structured answer: what its JSON says, or the choice
    parsed: Any = None
    model: str
    #: the Celery node that answered, such as card0@host
    worker: str
    #: 1 where the first attempt succeeded
    attempt: int = Field(ge=1)
    #: it was given to an earlier job that asked the same, and nothing was computed for this one: text, usage, model and
    #: worker are that one's, the rest is this one's own
    reused: bool = False
    #: the error of the attempt before, as `Class: message`
    last_error: str | None = None
