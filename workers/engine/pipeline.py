"""The pipeline engine: any model that `transformers.pipeline("image-text-to-text")` loads, in microbatches.

Static batching: a microbatch is decoded until its last row has ended, though each row's answer is given at its own
end. Replicas (each with its own model, tokenizer and thread) take microbatches from one queue.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import EngineError
from workers.engine.base import Completion, OnCrash, Prompt, Stall
from workers.engine.clock import Clock
from workers.engine.held import Holdings
from workers.engine.preparation import Preparation
from workers.engine.pulse import Pulse
from workers.engine.replica import Replica, is_poisoned
from workers.engine.settings import EngineSettings
from workers.engine.waiting import Waiting

#: a thread that is stuck in CUDA cannot be ended; the process has to go without it
_JOIN_S = 10.0


class PipelineEngine:
    """The engine protocol over `settings.replicas` loaded pipelines."""

    def __init__(self, settings: EngineSettings, slots: int) -> None:
        # a folder's place on this machine is nothing to tell whoever reads an answer
        self.model = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
        self._settings = settings
        # replicas share the card's slots
        self._microbatch = max(1, min(settings.microbatch_of(slots), slots // settings.replicas))
        self._clock = Clock("deadlines")
        self._holdings = Holdings(self._clock)
        self._waiting = Waiting(settings.microbatch_wait_ms / 1000)
        self._preparation: Preparation | None = None
        self._threads: list[threading.Thread] = []
        self._pulses: list[Pulse] = []
        self._on_crash: OnCrash = lambda error, ids: None
        #: taken by the first thing that ends this engine, never let go
        self._ending = threading.Lock()

    def start(self, on_crash: OnCrash) -> None:
        """Load the replicas one after another and let each answer a tiny picture. Raises NotReady."""
        self._on_crash = on_crash
        self._clock.start()
        for number in range(self._settings.replicas):
            ready: Future[ImageTextToTextPipeline] = Future()
            pulse = Pulse(self._settings.hang_s)
            self._pulses.append(pulse)
            thread = threading.Thread(target=self._live, args=(ready, pulse), name=f"engine-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
            try:
                pipe = ready.result()
            except BaseException:
                # one replica that cannot load, or an interrupt while it does: none is to go on
                self.stop()
                raise
        self._preparation = Preparation(pipe, self._settings.slot_tokens, self._waiting)

    def stall(self) -> Stall | None:
        """Whether a replica is silent for too long. All that run are named: they share the card that hangs."""
        stalls = [stall for pulse in self._pulses if (stall := pulse.stall())]
        if not stalls:
            return None
        return replace(max(stalls, key=lambda stall: stall.silent_s), ids=self._unsettled(self._pulses))

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt."""
        held = self._holdings.hold(prompt)
        if self._preparation is None:
            held.fail(EngineError("the engine has not started"))
        elif not held.settled:
            self._preparation.prepare(held)
        return held.future

    def cancel(self, id: str) -> None:
        """Fail the prompt with Cancelled; if it runs, its row ends with the step."""
        self._holdings.cancel(id)

    def stop(self) -> None:
        """Fail what is held with EngineError, and end the threads after the step they are in."""
        self._ending.acquire(blocking=False)
        self._close(EngineError("the engine is stopping"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)
        self._clock.stop()

    def _live(self, ready: Future[ImageTextToTextPipeline], pulse: Pulse) -> None:
        pulse.beat("load")
        try:
            replica = Replica(self._settings, self._microbatch)
            replica.warm_up()
        except BaseException as error:
            # whatever it is, `start` raises it
            pulse.park()
            ready.set_exception(error)
            return
        ready.set_result(replica.pipe)
        try:
            replica.serve(self._waiting, pulse)
        except BaseException as error:
            # nothing of what escapes is known to be harmless, so the worker is told and every prompt let go
            if self._ending.acquire(blocking=False):
                # a lost context is every replica's, and the one that hears of it first need not be the one that lost it
                self._on_crash(error, self._unsettled(self._pulses if is_poisoned(error) else [pulse]))
            self._close(EngineError(f"the engine crashed ({type(error).__name__})"))
            pulse.park()

    def _unsettled(self, pulses: Sequence[Pulse]) -> tuple[str, ...]:
        return tuple(id for pulse in pulses for id in pulse.ids if id in self._holdings)

    def _close(self, error: EngineError) -> None:
        self._holdings.close(error)
        self._waiting.close()
        if self._preparation is not None:
            self._preparation.close()
