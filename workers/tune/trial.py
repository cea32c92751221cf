"""Runs questions through the decoder pool and the engine of a worker, without a queue."""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from vqa.settings import QueueSettings
from workers.engine.base import Completion, Engine, Prompt, SamplingParams, Turn
from workers.engine.detail import ImageTokens
from workers.engine.process.child import SWITCH_S
from workers.engine.settings import EngineSettings
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest
from workers.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Question:
    """One encoded image and a question about it."""

    image: bytes
    text: str
    max_new_tokens: int
    #: a grammar of llguidance that the answer must match
    grammar: str | None = None
    #: the system prompt, if there is one
    system: str = ""


@dataclass(frozen=True, slots=True)
class TrialRun:
    """How long some questions took."""

    #: from the arrival of the first question to the last answer
    seconds: float
    #: from the arrival of each question to its answer, in the order of arrival
    latencies_s: Sequence[float]
    #: generated tokens
    tokens: int

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    def percentile(self, part: int) -> float:
        """Return the number of seconds within which `part` percent of the questions were answered."""
        if len(self.latencies_s) == 1:
            return self.latencies_s[0]
        return statistics.quantiles(self.latencies_s, n=100, method="inclusive")[part - 1]


class Trial:
    """A context manager that starts and stops an engine and a decoder pool."""

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        self.engine = engine
        self._settings = settings
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        # after a crash, the waiting threads get EngineError from the futures of their prompts
        self.engine.start(lambda error, ids: None)
        tokens, fit = ImageTokens.from_settings(self._settings), self.engine.fit
        usual = fit and tokens.usual_fit(fit)
        limits = ImageLimits.from_settings(QueueSettings(), self._settings.max_image_pixels, usual)
        try:
            self._decoders = DecoderPool(WorkerSettings().decoders, limits)
        except BaseException:
            self.engine.stop()
            raise
        # as an engine's process does
        gc.collect()
        gc.freeze()
        self._before_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        gc.unfreeze()
        sys.setswitchinterval(self._before_s)
        self.engine.stop()
        self._decoders.close()

    def prompt(self, question: Question) -> Prompt:
        """Decode the image and return a prompt with a new id. Raises BadImage."""
        [(image, *_)] = self._decoders.decode([ImageRequest(question.image)])
        system = (Turn("system", (question.system,)),) if question.system else ()
        turns = (*system, Turn("user", (image, question.text)))
        params = SamplingParams(question.max_new_tokens, grammar=question.grammar)
        return Prompt(str(next(self._numbers)), turns, params, lane="bulk")

    def answer(self, question: Question) -> Completion:
        """Ask and wait. Raises VQAError."""
        return self.engine.submit(self.prompt(question)).result()

    def run(
        self,
        questions: Sequence[Question],
        in_flight: int,
        starts_s: Sequence[float] | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> TrialRun:
        """Ask all questions, at most `in_flight` at once, each in its own thread as in a worker.

        With `starts_s`, each question arrives at its time, in seconds from now, and waiting for a thread counts as
        latency; otherwise it arrives when a thread is free. Raises the first error of a question.
        """
        started = time.perf_counter()
        failed = threading.Event()

        def ask(question: Question, due_s: float | None) -> tuple[float, int]:
            arrived = time.perf_counter() if due_s is None else started + due_s
            completion = self.answer(question)
            on_answer()
            return time.perf_counter() - arrived, completion.completion_tokens

        pool = ThreadPoolExecutor(in_flight, thread_name_prefix="trial")
        try:
            futures: list[Future[tuple[float, int]]] = []
            for question, due_s in zip(questions, starts_s or itertools.repeat(None, len(questions)), strict=True):
                if due_s is not None and failed.wait(max(0.0, started + due_s - time.perf_counter())):
                    break
                futures.append(pool.submit(ask, question, due_s))
                futures[-1].add_done_callback(partial(_set_if_failed, failed))
            results = _results(futures)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        seconds = time.perf_counter() - started
        return TrialRun(seconds, [latency for latency, _ in results], sum(tokens for _, tokens in results))


def _results(futures: Sequence[Future[tuple[float, int]]]) -> list[tuple[float, int]]:
    """Wait for all results; raise the first error as soon as it happens."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]


def _set_if_failed(failed: threading.Event, future: Future[tuple[float, int]]) -> None:
    if future.cancelled() or future.exception() is not None:
        failed.set()
