"""The protocol between the task and an engine: a prompt goes in, a future of a completion comes out.

Knows nothing of the queue: no Celery, no Redis, no ids but the one it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from PIL.Image import Image

from vqa.answer import FinishReason
from vqa.job import Lane


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the chat: words and decoded RGB pictures in their order."""

    role: str
    parts: tuple[str | Image, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine answers: the chat decoded, and how to generate."""

    id: str
    turns: tuple[Turn, ...]
    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    lane: Lane = "interactive"
    #: a point on `time.monotonic()`'s clock, in seconds
    deadline: float = float("inf")
    #: from 1; with the metadata it lets the echo engine fail as a test asks
    attempt: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine made of a prompt."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """One loaded model, and the threads that alone touch it."""

    #: the model's name as answers carry it
    model: str

    def start(self, on_crash: Callable[[BaseException], None]) -> None:
        """Load and warm up; return when prompts can be answered. Raises NotReady.

        `on_crash` is called, from an engine's thread, with what escaped its loop: the engine is of no use any more.
        Then every prompt that it holds fails with EngineError, so whoever waits for one knows why by then.
        """

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt. The future fails with a VQAError; a deadline that passes first, with DeadlineExceeded."""

    def cancel(self, id: str) -> None:
        """End this prompt as soon as the engine can: its future fails with Cancelled. Unknown ids are ignored."""

    def stop(self) -> None:
        """Answer nothing more; what is still held fails with EngineError."""
