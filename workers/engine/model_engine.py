"""The base of engines with a model: threads that each own a loaded pipeline, their warm-up, crash and stop."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vqa.errors import EngineError, NotReady
from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from workers.engine.base import Completion, OnCrash, Prompt, SamplingParams, Stall, Turn
from workers.engine.forks import Fork, is_forked
from workers.engine.image import RGBImage
from workers.engine.runtime.faults import is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import EngineSettings
from workers.engine.text.encoder_pool import EncoderPool
from workers.engine.text.thoughts import opens_thought

log = logging.getLogger(__name__)

#: seconds to wait for a thread at `stop`; a thread that hangs in CUDA cannot be ended
_JOIN_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that is loaded and warmed up."""

    #: its transformers pipeline, whose methods are not typed
    pipe: Any
    #: answers prompts until the engine is closed; an exception that it raises ends the engine
    serve: Callable[[Heartbeat], None]


class ModelEngine(ABC):
    """Implements `Engine` with one or more threads, each with its own loaded model."""

    fit: Fit | None = None
    video_fit: VideoFit | None = None

    def __init__(self, settings: EngineSettings, threads: int) -> None:
        # answers must not show the paths of this machine
        self.model = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
        self.settings = settings
        #: of prompts that say none; set by `open` if it is the checkpoint's own and the model does not apply it itself
        self.repetition_penalty = 1.0
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
        #: acquired by the first crash or `stop`, never released
        self._ending = threading.Lock()
        self._crash: BaseException | None = None

    @abstractmethod
    def open(self) -> Loaded:
        """Load and warm up a model; called in the thread that will serve it. Raises NotReady."""

    @abstractmethod
    def make_encoder_pool(self, pipe: Any) -> EncoderPool[Any]:
        """Make the pool that encodes prompts for the loaded models."""

    @abstractmethod
    def close(self) -> None:
        """Make every `serve` return soon."""

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
                # also on an interrupt: the other threads must not go on
                self.stop()
                raise
        self._encoder_pool = self.make_encoder_pool(pipe)
        if opens_thought(pipe.processor):
            log.info(
                "%s thinks before it answers: for up to %d tokens (VQA_MAX_REASONING_TOKENS) if a job does not say, "
                "which are not counted in its max_new_tokens",
                self.model,
                self.settings.max_reasoning_tokens,
            )

    def stall(self) -> Stall | None:
        """Return the longest stall, with the prompts of all threads: they share the card that hangs."""
        stalls = [stall for heartbeat in self._heartbeats if (stall := heartbeat.stall())]
        if not stalls:
            return None
        return replace(max(stalls, key=lambda stall: stall.silent_s), ids=self._unsettled(self._heartbeats))

    def submit(self, prompt: Prompt) -> Future[Completion]:
        return self._submit(prompt).future

    def _submit(self, prompt: Prompt) -> Pending:
        if self.repetition_penalty != 1 and prompt.params.repetition_penalty is None:
            prompt = replace(prompt, params=replace(prompt.params, repetition_penalty=self.repetition_penalty))
        pending = self._pending.add(prompt)
        if self._encoder_pool is None:
            pending.fail(EngineError("the engine has not started"))
        elif is_forked(prompt.params):
            Fork(pending, self._submit).start()
        elif not pending.settled:
            self._encoder_pool.submit(pending)
        return pending

    def cancel(self, id: str) -> None:
        """Fail the prompt with Cancelled; if it runs, it ends with the current step."""
        self._pending.cancel(id)

    def stop(self) -> None:
        """Fail all pending prompts with EngineError, and end the threads after their current step."""
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
            # `start` raises it
            heartbeat.idle()
            ready.set_exception(error)
            return
        heartbeat.idle()
        ready.set_result(loaded.pipe)
        try:
            loaded.serve(heartbeat)
        except BaseException as error:
            # keep its frames and their tensors: freeing a tensor whose context is lost aborts the process (c10's
            # destructors throw), before its jobs are returned to the queue
            self._crash = error
            # no error that ends `serve` is known to be harmless: report a crash and fail every prompt
            if self._ending.acquire(blocking=False):
                # a lost context fails all models, and the first thread to notice need not be the one that caused it
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


def warm_up(pipe: Any, answer: Callable[[Pending], None], size: tuple[int, int] = (64, 64)) -> None:
    """Have `answer` settle a question about a white image of `size` (width, height). Raises NotReady."""
    image = RGBImage.from_pil(Image.new("RGB", size, "white"))
    pending = Pending(Prompt("warm-up", (Turn("user", (image, "?")),), SamplingParams(2), lane="bulk"))
    try:
        answer(pending)
        pending.future.result(0)
    except Exception as error:
        # a model that fails on this would fail on every prompt
        raise NotReady(f"{pipe.model.name_or_path} (VQA_MODEL) is loaded but does not answer: {error}") from error
