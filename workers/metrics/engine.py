"""The prompts that an engine answers now."""

from __future__ import annotations

from concurrent.futures import Future

from workers.engine.base import Completion, Engine, OnCrash, Prompt, Stall


class CountedEngine:
    """Passes prompts on to an engine that has started, and knows how many it has not settled yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model, self.fit, self.video_fit = engine.model, engine.fit, engine.video_fit
        #: futures that are not settled; adding to a set and removing from it need no lock
        self._open: set[Future[Completion]] = set()

    @property
    def prompts(self) -> int:
        """How many prompts are in slots or wait for one. Thread-safe."""
        return len(self._open)

    def start(self, on_crash: OnCrash) -> None:
        self._engine.start(on_crash)

    def stall(self) -> Stall | None:
        return self._engine.stall()

    def submit(self, prompt: Prompt) -> Future[Completion]:
        future = self._engine.submit(prompt)
        # the echo engine may have answered already
        if not future.done():
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return future

    def cancel(self, id: str) -> None:
        self._engine.cancel(id)

    def stop(self) -> None:
        self._engine.stop()
