"""An engine tried out where it runs: media and engine as a worker has them, and no queue before them."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from vqa.settings import QueueSettings
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.engine.settings import EngineSettings
from workers.media.pool import Media
from workers.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Question:
    """One image, as encoded bytes, and what is asked about it."""

    image: bytes
    words: str
    max_new_tokens: int
    #: what its answer is kept to, as llguidance reads it
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """How long some questions took."""

    #: from the first one's coming to the last answer
    seconds: float
    #: from each one's coming to its answer, in the order in which they came
    latencies_s: Sequence[float]
    #: tokens that were generated
    tokens: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds

    def percentile(self, part: int) -> float:
        """Seconds within which `part` of a hundred were answered."""
        if len(self.latencies_s) == 1:
            return self.latencies_s[0]
        return statistics.quantiles(self.latencies_s, n=100, method="inclusive")[part - 1]


class Trial:
    """A context manager: the engine is started and stopped with it."""

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        self.engine = engine
        self._settings = settings
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        # a crash settles what the engine holds with EngineError, which is raised to whoever waits
        self.engine.start(lambda error, ids: None)
        limits = QueueSettings()
        try:
            self._media = Media(
                WorkerSettings().decoders,
                limits.image_max_bytes,
                limits.image_max_pixels,
                self._settings.max_image_pixels,
                self.engine.fit,
            )
        except BaseException:
            self.engine.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.engine.stop()
        self._media.close()

    def prompt(self, question: Question) -> Prompt:
        """The question with its image decoded, under a number of its own. Raises BadImage."""
        (image,) = self._media.decode([question.image])
        turn = Turn("user", (image, question.words))
        number, most = str(next(self._numbers)), question.max_new_tokens
        return Prompt(number, (turn,), max_new_tokens=most, lane="bulk", grammar=question.grammar)

    def answer(self, question: Question) -> Completion:
        """Ask and wait. Raises VQAError."""
        return self.engine.submit(self.prompt(question)).result()

    def run(
        self,
        questions: Sequence[Question],
        in_flight: int,
        starts_s: Sequence[float] | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> Run:
        """Ask all of them, at most `in_flight` at once, each in a thread as a worker does; raises what one fails with.

        Where `starts_s` says so, each comes at its moment, in seconds from now, and its wait for a thread counts; else
        each comes when a thread is free for it.
        """
        began = time.perf_counter()
        failed = threading.Event()

        def ask(question: Question, due_s: float | None) -> tuple[float, int]:
            came = time.perf_counter() if due_s is None else began + due_s
            completion = self.answer(question)
            on_answer()
            return time.perf_counter() - came, completion.completion_tokens

        pool = ThreadPoolExecutor(in_flight, thread_name_prefix="trial")
        try:
            asked: list[Future[tuple[float, int]]] = []
            for question, due_s in zip(questions, starts_s or itertools.repeat(None, len(questions)), strict=True):
                if due_s is not None and failed.wait(max(0.0, began + due_s - time.perf_counter())):
                    break
                asked.append(pool.submit(ask, question, due_s))
                asked[-1].add_done_callback(partial(_tell_failure, failed))
            ended = _results(asked)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        seconds = time.perf_counter() - began
        return Run(seconds, [latency for latency, _ in ended], sum(tokens for _, tokens in ended))


def _results(asked: Sequence[Future[tuple[float, int]]]) -> list[tuple[float, int]]:
    """Of all of them; raises what one fails with as soon as it does."""
    done, _ = wait(asked, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in asked]


def _tell_failure(failed: threading.Event, future: Future[tuple[float, int]]) -> None:
    if future.cancelled() or future.exception() is not None:
        failed.set()
