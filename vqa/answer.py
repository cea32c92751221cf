"""Answers: the text that a job got, with usage and timings, as immutable pydantic models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

FinishReason = Literal["stop", "length", "content_filter"]


class Outgoing(BaseModel):
    """An immutable model that ignores unknown fields: workers are upgraded before producers."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _zero_unless_known(value: object) -> float:
    """Return 0 for a figure that is unknown or impossible: no answer is thrown away because of it."""
    return value if isinstance(value, int | float) and 0 <= value <= sys.float_info.max else 0


Seconds = Annotated[float, BeforeValidator(_zero_unless_known)]
Count = Annotated[int, BeforeValidator(lambda value: int(_zero_unless_known(value)))]


class Usage(Outgoing):
    """Prompt and answer tokens; images count as the tokens that they become. 0 is also for an unknown number."""

    prompt_tokens: Count
    completion_tokens: Count
    #: of the prompt's, those that the engine had computed for earlier prompts with the same beginning
    cached_tokens: Count = 0
    #: of the completion's, those of a thought before the answer, with those that end it
    reasoning_tokens: Count = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Timings(Outgoing):
    """How long an answered job took, in seconds; what `total_s` has beyond the parts was overhead.

    0 is also for an unknown duration: one during which a clock was set back.
    """

    #: from acceptance until this attempt began, including earlier attempts and their delays
    queued_s: Seconds
    #: to fetch and decode the images
    media_s: Seconds
    #: in the engine, including the wait for a slot
    engine_s: Seconds
    #: from acceptance to the answer
    total_s: Seconds
    #: parts of `engine_s`: until the prompt got a slot, from then to the first token, and from there to the last one; 0
    #: is also for an engine that does not say
    slot_wait_s: Seconds = 0
    prefill_s: Seconds = 0
    decode_s: Seconds = 0


class SeenImage(Outgoing):
    """An image of a job: what was in its file, and what the model saw of it. Sizes are in pixels, upright."""

    #: None if unknown: some image processors cut an image into tiles
    width: int | None = None
    height: int | None = None
    source_width: int
    source_height: int
    #: frames of the animation in the file, of which the model saw the first
    frames: int = 1
    #: which page of the file it is, from 1, and how many pages the file has
    page: int = 1
    pages: int = 1
    #: that the image had in the prompt; None if unknown
    tokens: int | None = None


class SeenVideo(Outgoing):
    """A video of a job: what the model saw of it, and what was sent. Sizes are in pixels, upright."""

    #: that were shown: all that were sent, or those that were sampled from a file
    frames: int
    width: int
    height: int
    source_width: int
    source_height: int
    #: in the prompt, without those of the times
    tokens: int


class TopLogprob(Outgoing):
    """A token and the natural logarithm of its probability, as OpenAI writes it."""

    #: its text, with U+FFFD for bytes that are no whole characters
    token: str
    logprob: float
    #: of its text: a character may be spread over several tokens
    bytes: tuple[int, ...]


class TokenLogprob(TopLogprob):
    """A token of an answer. The probability is the model's own, before penalties, temperature and grammars."""

    #: the likeliest tokens at its place, the likeliest first, as many as the job's `top_logprobs`
    top_logprobs: tuple[TopLogprob, ...] = ()


class Alternative(Outgoing):
    """Another answer to a job whose `n` is more than 1."""

    text: str
    finish_reason: FinishReason
    parsed: Any = None
    reasoning: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


class Answer(Outgoing):
    """The answer to a job."""

    id: str
    text: str
    #: `stop`: end of text or a stop string; `length`: max_new_tokens was reached; `content_filter`: the worker's word
    #: filter refused the text, which is empty, or ends before the first such word if it was streamed
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    #: the value of a structured answer: its parsed JSON, or the choice
    parsed: Any = None
    #: what a model that thinks before it answers thought; the text is empty if it wrote nothing after it
    reasoning: str | None = None
    #: of the tokens of the text, if the job asked for them
    logprobs: tuple[TokenLogprob, ...] | None = None
    #: the other answers of a job whose `n` is more than 1; `usage` counts their tokens too
    alternatives: tuple[Alternative, ...] = ()
    #: the probability of each choice, if the job asked for them; they sum to 1
    choices: Mapping[str, float] | None = None
    #: the job's images in order, one that is shown twice also here
    images: tuple[SeenImage, ...] = ()
    #: the job's videos in order
    videos: tuple[SeenVideo, ...] = ()
    model: str
    #: Celery node name of the worker, for example card0@host
    worker: str
    #: number of the attempt that succeeded, from 1
    attempt: int
    #: the answer of an earlier job with the same question was reused: text, usage, model and worker are that job's
    reused: bool = False
    #: categories of the worker's word filter whose words the answer had, or the question; see docs/filter.md
    filtered: tuple[str, ...] = ()
    #: the notice that the answer is made by a machine (VQA_LABEL), which also ends the text of an unstructured answer
    label: str | None = None
    #: error of the previous attempt, as `Class: message`
    last_error: str | None = None
