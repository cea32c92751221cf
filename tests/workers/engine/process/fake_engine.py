"""Engines that a test's `EngineProcess` runs: one that answers without a model, and what can happen to a process."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import weakref
from concurrent.futures import Future
from dataclasses import replace

from vqa.errors import AnswerTooLong, Cancelled, EngineError, InvalidJob, NotReady, PromptTooLong
from vqa.images.fit import Fit
from workers.engine.base import Completion, OnCrash, Prompt, Stall
from workers.engine.image import RGBImage
from workers.engine.settings import EngineSettings
from workers.engine.stats import Stats

FACTORY = "tests.workers.engine.process.fake_engine"


class FakeEngine:
    """Answers with what the prompt's first text asks for, at once."""

    model = "fake"
    fit: Fit | None = Fit(32, 1024, 65_536)
    video_fit = None

    def __init__(self) -> None:
        self._waiting: dict[str, Future[Completion]] = {}
        self._seen: list[bytes] = []
        self._failed: list[weakref.ref[RGBImage]] = []
        self._stats = Stats(longest_pass_s=0.5)
        self._stall: Stall | None = None
        self._on_crash: OnCrash = lambda error, ids: None

    def start(self, on_crash: OnCrash) -> None:
        self._on_crash = on_crash

    def stall(self) -> Stall | None:
        return self._stall

    def stats(self) -> Stats:
        return self._stats

    def forget_longest_pass(self) -> None:
        self._stats = replace(self._stats, longest_pass_s=0.0)

    def submit(self, prompt: Prompt) -> Future[Completion]:
        future: Future[Completion] = Future()
        asked = str(prompt.turns[0].parts[0])
        self._stats = replace(self._stats, passes=self._stats.passes + 1)
        self._waiting[prompt.id] = future
        match asked:
            case "too long":
                error = PromptTooLong("20 tokens too many")
                error.excess, error.limit = 20, 100
                future.set_exception(error)
            case "no json":
                future.set_exception(AnswerTooLong("it does not fit"))
            case "bug":
                future.set_exception(ValueError("not in the tree"))
            case "fail with the pixels":
                self._fail(prompt, future)
            case "which pixels are left?":
                text = str(sum(image() is not None for image in self._failed))
                future.set_result(replace(self._completion(prompt), text=text))
            case "raise":
                raise ValueError("while it is submitted")
            case "wait":
                pass
            case "stall":
                self._stall = Stall("prefill", 7.5, (prompt.id,), 5.0)
            case "crash":
                self._on_crash(RuntimeError("of the card"), [prompt.id])
                for each in self._waiting.values():
                    each.set_exception(EngineError("the engine crashed (RuntimeError)"))
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "no text":
                # which cannot be written as JSON
                future.set_result(replace(self._completion(prompt), text="\ud800"))
            case "hold the interpreter":
                # a call that does not give the interpreter's lock back
                ctypes.PyDLL(None).sleep(3600)
            case _:
                future.set_result(self._completion(prompt))
        return future

    def cancel(self, id: str) -> None:
        self._stats = replace(self._stats, steps=self._stats.steps + 1)
        if not self._waiting[id].done():
            self._waiting[id].set_exception(Cancelled("cancelled"))

    def stop(self) -> None:
        pass

    def _fail(self, prompt: Prompt, future: Future[Completion]) -> None:
        self._failed += map(weakref.ref, prompt.images)
        try:
            raise InvalidJob("in a frame that has the prompt")
        except InvalidJob as error:
            future.set_exception(error)

    def _completion(self, prompt: Prompt) -> Completion:
        """Name the images that the prompt has, and how many there have been: equal bytes of two prompts are one."""
        for image in prompt.images + [frame for video in prompt.videos for frame in video.frames]:
            if not any(image.pixels is seen for seen in self._seen):
                self._seen.append(image.pixels)
        text = " ".join(f"{image.digest[:8]}:{len(image.pixels)}" for image in prompt.images)
        if prompt.on_text is not None:
            for piece in ("a", "b", "c"):
                prompt.on_text(piece)
        return Completion(text, "stop", len(self._seen), prompt.attempt)


def make_engine(settings: EngineSettings, slots: int) -> FakeEngine:
    return FakeEngine()


class _NotReady(FakeEngine):
    def start(self, on_crash: OnCrash) -> None:
        raise NotReady("its weights are nowhere")


class _Broken(FakeEngine):
    def start(self, on_crash: OnCrash) -> None:
        raise TypeError("a bug")


class _Dying(FakeEngine):
    def start(self, on_crash: OnCrash) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _Loading(FakeEngine):
    def start(self, on_crash: OnCrash) -> None:
        threading.Event().wait()


def stuck(settings: EngineSettings, slots: int) -> FakeEngine:
    threading.Event().wait()
    return FakeEngine()


def not_ready(settings: EngineSettings, slots: int) -> FakeEngine:
    return _NotReady()


def broken(settings: EngineSettings, slots: int) -> FakeEngine:
    return _Broken()


def dying(settings: EngineSettings, slots: int) -> FakeEngine:
    return _Dying()


def loading(settings: EngineSettings, slots: int) -> FakeEngine:
    return _Loading()
