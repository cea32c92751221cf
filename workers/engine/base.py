"""The protocol between the task and an engine: a prompt goes in, a future of a completion comes out.

Knows nothing of the queue: no Celery, no Redis, no ids but the one it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vqa.answer import FinishReason
from vqa.job import Lane
from workers.engine.image import Fit, RGBImage


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the chat: words and decoded images in their order."""

    role: str
    parts: tuple[str | RGBImage, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to generate an answer."""

    max_new_tokens: int
    #: 0 is greedy
    temperature: float = 0.0
    #: nucleus sampling: draw from the likeliest tokens that together have at least this probability
    top_p: float = 1.0
    #: the same prompt and seed give the same answer. On a card, the prompts computed with it may change how sums are
    #: rounded and so, rarely, the answer
    seed: int | None = None
    stop: tuple[str, ...] = ()
    #: the grammar of `vqa.grammar` that the answer must match; None allows any text
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A job as an engine takes it: the chat with decoded images, and how to answer it."""

    id: str
    turns: tuple[Turn, ...]
    params: SamplingParams
    lane: Lane = "interactive"
    #: a point on `time.monotonic()`'s clock, in seconds
    deadline: float = float("inf")
    #: from 1; with the metadata it lets the echo engine fail as a test asks
    attempt: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: it has lost workers before, and if it loses this one nobody else is to be hurt: while it is in a slot, in prefill
    #: or in a microbatch, no other prompt is
    alone: bool = False
    #: told each piece of the answer as soon as it is sure, from the engine's thread: the pieces joined are the answer's
    #: text. It must be quick, and what it raises fails this prompt alone.
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine made of a prompt."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


#: what a computing thread is at
Phase = Literal["load", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Stall:
    """A thread that computes has given no sign of life for longer than its phase may take."""

    phase: Phase
    #: since its last sign of life
    silent_s: float
    #: the prompts in slots or in prefill: one of them may be why
    ids: tuple[str, ...]
    #: how long this phase may be silent
    limit_s: float = 0.0


#: told what escaped an engine's loop, and the ids of the prompts that raised it
OnCrash = Callable[[BaseException, Collection[str]], None]


class Engine(Protocol):
    """One loaded model, and the threads that alone touch it."""

    #: the model's name as answers carry it
    model: str
    #: the size to which images are to be scaled before they come, where the engine has the model's own image
    #: processor do no more; known once started
    fit: Fit | None

    def start(self, on_crash: OnCrash) -> None:
        """Load and warm up; return when prompts can be answered. Raises NotReady.

        `on_crash` is called once, from an engine's thread, with what escaped its loop and the ids of the prompts that
        it was at: the engine is of no use any more. Then every prompt that it holds fails with EngineError, so whoever
        waits for one knows why by then.
        """

    def stall(self) -> Stall | None:
        """Whether a thread that computes has been silent for longer than it may. For any thread, at any time."""

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt. The future fails with a VQAError; a deadline that passes first, with DeadlineExceeded."""

    def cancel(self, id: str) -> None:
        """End this prompt as soon as the engine can: its future fails with Cancelled. Unknown ids are ignored."""

    def stop(self) -> None:
        """Answer nothing more; what is still held fails with EngineError."""
