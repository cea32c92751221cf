"""Notes when prompts are passed to an engine, and when they are settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from workers.engine.base import Completion, Engine, OnCrash, Prompt, Stall
from workers.tracing.stages import Stages


class TracedEngine:
    """Passes prompts on to an engine that has started."""

    def __init__(self, engine: Engine, stages: Callable[[str], Stages | None]) -> None:
        """`stages` returns where to note the times of a job's attempt."""
        self._engine = engine
        self._stages = stages
        self.model, self.fit, self.video_fit = engine.model, engine.fit, engine.video_fit

    def start(self, on_crash: OnCrash) -> None:
        self._engine.start(on_crash)

    def stall(self) -> Stall | None:
        return self._engine.stall()

    def submit(self, prompt: Prompt) -> Future[Completion]:
        stages, submitted_ns = self._stages(prompt.id), time.time_ns()
        future = self._engine.submit(prompt)
        if stages is not None:
            stages.submitted_ns, stages.settled_ns, stages.completion = submitted_ns, 0, None
            _follow(future, stages)
        return future

    def cancel(self, id: str) -> None:
        self._engine.cancel(id)

    def stop(self) -> None:
        self._engine.stop()


def _follow(future: Future[Completion], stages: Stages) -> None:
    def settled(ended: Future[Completion]) -> None:
        stages.settled_ns = time.time_ns()
        if ended.exception() is None:
            stages.completion = ended.result()

    future.add_done_callback(settled)
