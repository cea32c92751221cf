"""What every engine with a model has in common: threads that each own a loaded pipeline, and how it all ends."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vqa.errors import EngineError, NotReady
from workers.engine.base import Completion, OnCrash, Prompt, SamplingParams, Stall, Turn
from workers.engine.image import Fit, RGBImage
from workers.engine.runtime.faults import is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import EngineSettings
from workers.engine.text.encoder_pool import EncoderPool


def warm_up(pipe: Any, answer: Callable[[Pending], None], size: tuple[int, int] = (64, 64)) -> None:
    """Let `answer` settle a question about a white image of this width and height. Raises NotReady."""
    image = RGBImage.from_pil(Image.new("RGB", size, "white"))
    pending = Pending(Prompt("warm-up", (Turn("user", (image, "?")),), SamplingParams(2), lane="bulk"))
    try:
        answer(pending)
        pending.future.result(0)
    except Exception as error:
        # a model that fails on this would fail on everything
        raise NotReady(f"{pipe.model.name_or_path} (VQA_MODEL) is loaded but does not answer: {error}") from error


#: a thread that is stuck in CUDA cannot be ended; the process has to go without it
_JOIN_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that is loaded and has answered a tiny image."""

    #: its `transformers` pipeline, which has no types
    pipe: Any
    #: answers until the engine is closed; what escapes is the engine's end
    serve: Callable[[Heartbeat], None]


class ModelEngine(ABC):
    """The engine protocol over one thread or more, each with a loaded model of its own."""

    fit: Fit | None = None

    def __init__(self, settings: EngineSettings, threads: int) -> None:
        # a folder's place on this machine is nothing to tell whoever reads an answer
        self.model = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
        self.settings = settings
        self._timers = Timers("deadlines")
        self._pending = PendingPrompts(self._timers)
        self._encoder_pool: EncoderPool[Any] | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"engine-{number}", daemon=True)
            for number in range(threads)
        ]
        self._heartbeats = [Heartbeat(settings.hang_s) for _ in range(threads)]
        self._ready: list[Future[Any]] = [Future() for _ in range(threads)]
        self._on_crash: OnCrash = lambda error, ids: None
        #: taken by the first thing that ends this engine, never let go
        self._ending = threading.Lock()
        self._crash: BaseException | None = None

    @abstractmethod
    def open(self) -> Loaded:
        """Load and warm up, in the thread that will serve. Raises NotReady."""

    @abstractmethod
    def make_encoder_pool(self, pipe: Any) -> EncoderPool[Any]:
        """Who encodes prompts for the models that are loaded."""

    @abstractmethod
    def close(self) -> None:
        """Let every `serve` return soon."""

    def start(self, on_crash: OnCrash) -> None:
        """Load the models one after another. Raises NotReady."""
        self._on_crash = on_crash
        self._timers.start()
        pipe: Any = None
        for thread, ready in zip(self._threads, self._ready, strict=True):
            thread.start()
            try:
                pipe = ready.result()
            except BaseException:
                # one that cannot load, or an interrupt while it does: none is to go on
                self.stop()
                raise
        self._encoder_pool = self.make_encoder_pool(pipe)

    def stall(self) -> Stall | None:
        """Whether a thread is silent for too long. The prompts of all are named: they share the card that hangs."""
        stalls = [stall for heartbeat in self._heartbeats if (stall := heartbeat.stall())]
        if not stalls:
            return None
        return replace(max(stalls, key=lambda stall: stall.silent_s), ids=self._unsettled(self._heartbeats))

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt."""
        pending = self._pending.add(prompt)
        if self._encoder_pool is None:
            pending.fail(EngineError("the engine has not started"))
        elif not pending.settled:
            self._encoder_pool.submit(pending)
        return pending.future

    def cancel(self, id: str) -> None:
        """Fail the prompt with Cancelled; if it runs, its row ends with the step."""
        self._pending.cancel(id)

    def stop(self) -> None:
        """Fail what is held with EngineError, and end the threads after the step they are in."""
        self._ending.acquire(blocking=False)
        self._end(EngineError("the engine is stopping"))
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(_JOIN_S)
        self._timers.stop()

    def _run(self, number: int) -> None:
        heartbeat, ready = self._heartbeats[number], self._ready[number]
        heartbeat.beat("load")
        try:
            loaded = self.open()
        except BaseException as error:
            # whatever it is, `start` raises it
            heartbeat.idle()
            ready.set_exception(error)
            return
        heartbeat.idle()
        ready.set_result(loaded.pipe)
        try:
            loaded.serve(heartbeat)
        except BaseException as error:
            # with its frames and their tensors: freeing one whose context is lost aborts the process (c10's destructors
            # throw), and that before its jobs are handed on
            self._crash = error
            # nothing of what escapes is known to be harmless, so the worker is told and every prompt let go
            if self._ending.acquire(blocking=False):
                # a lost context is every model's, and the one that hears of it first need not be the one that lost it
                self._on_crash(error, self._unsettled(self._heartbeats if is_poisoned(error) else [heartbeat]))
            self._end(EngineError(f"the engine crashed ({type(error).__name__})"))
            heartbeat.idle()

    def _unsettled(self, heartbeats: Sequence[Heartbeat]) -> tuple[str, ...]:
        return tuple(id for heartbeat in heartbeats for id in heartbeat.ids if id in self._pending)

    def _end(self, error: EngineError) -> None:
        self._pending.close(error)
        self.close()
        if self._encoder_pool is not None:
            self._encoder_pool.close()
