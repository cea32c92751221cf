"""An engine without a model: for tests, and to measure the queue alone.

The answer to a prompt is `echo:` and the first 16 hex digits of the SHA-256 over its turns in order: each text as
UTF-8, each image as `WIDTHxHEIGHT`, each of them ended by a zero byte; so a test can say beforehand what it must be.
To a prompt with a grammar it is a short text that keeps to it (`vqa/grammar.py`), the same one to every such prompt.
A job's metadata may ask for more: `echo_delay_s` (seconds before the answer), and `echo_fail` (how the job fails then:
the name of a class in vqa.errors, `exit` to end the process, `crash` for an exception that escapes the engine, `hang`
to stop the engine's thread), on its attempts up to `echo_fail_attempts` where that is set.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from vqa import errors
from vqa.errors import Cancelled, EngineError, InvalidJob, VQAError
from vqa.grammar import short_text
from workers.engine.base import Completion, OnCrash, Prompt, Stall
from workers.engine.echo.settings import EchoSettings
from workers.engine.echo.slots import Journal, Slots
from workers.engine.fair_share import Reserve
from workers.engine.image import Fit
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import EngineSettings
from workers.engine.text.generation import TextStream

#: exit status of a process that `echo_fail=exit` ends
EXIT_STATUS = 70

#: what of an answer is told at once: `echo:`, then the digits
_WORD = re.compile(r"\w+\W*|\W+")

#: between two beats while slots are occupied; a fifth of VQA_HANG_S where that is less
_BEAT_S = 0.2


def echo_of(prompt: Prompt) -> str:
    """The answer that the echo engine gives to `prompt`."""
    digest = hashlib.sha256()
    for turn in prompt.turns:
        for part in turn.parts:
            digest.update((part if isinstance(part, str) else f"{part.width}x{part.height}").encode() + b"\0")
    return f"echo:{digest.hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a prompt's metadata asks of the echo engine."""

    delay_s: float
    failure: str | None

    @classmethod
    def by(cls, prompt: Prompt, delay_s: float) -> Self:
        """Raises InvalidJob."""
        wish = prompt.metadata
        try:
            fails = prompt.attempt <= int(wish.get("echo_fail_attempts", prompt.attempt))
            return cls(float(wish.get("echo_delay_s", delay_s)), wish.get("echo_fail") if fails else None)
        except ValueError:
            raise InvalidJob("metadata echo_delay_s and echo_fail_attempts are numbers") from None

    @property
    def at_once(self) -> bool:
        """Whether it needs no time and no thread but the caller's."""
        return self.delay_s <= 0 and self.failure not in ("crash", "hang")


class EchoEngine:
    """Answers with a hash of the prompt; `slots` prompts spend their delay at once, the rest wait.

    Without a delay the future is settled before `submit` returns: no slot, no other thread; unless a prompt is alone.
    """

    def __init__(self, settings: EngineSettings, slots: int, echo: EchoSettings | None = None) -> None:
        """Raises NotReady where its journal cannot be written."""
        self.model = "echo"
        self.fit: Fit | None = None
        self._echo = echo or EchoSettings()
        self._journal = Journal(self._echo.journal) if self._echo.journal else None
        self._slots = Slots(slots, self._journal, Reserve.from_settings(settings, slots))
        self._timers = Timers("echo")
        self._pending = PendingPrompts(self._timers)
        self._heartbeat = Heartbeat(settings.hang_s)
        self._beat_s = min(_BEAT_S, settings.hang_s / 5)
        self._lock = threading.Lock()
        #: whether an alarm for the next beat is set
        self._beating = False
        self._stopped = threading.Event()
        self._on_crash: OnCrash = lambda error, ids: None
        #: taken by the first crash, never let go
        self._ending = threading.Lock()

    def start(self, on_crash: OnCrash) -> None:
        """Wait as long as loading is said to take."""
        self._on_crash = on_crash
        self._heartbeat.beat("load")
        time.sleep(self._echo.load_s)
        self._heartbeat.idle()
        self._timers.start()

    def stall(self) -> Stall | None:
        """Whether the clock's thread, which stands for the one that computes, is silent for too long."""
        stall = self._heartbeat.stall()
        return stall and replace(stall, ids=self._slots.in_slots())

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt, or answer it at once where it asks for no delay."""
        pending = self._pending.add(prompt)
        if not pending.settled:
            try:
                self._submit(pending, _Asked.by(prompt, self._echo.delay_s))
            except InvalidJob as error:
                pending.fail(error)
        return pending.future if self._journal is None else _following(pending.future)

    def cancel(self, id: str) -> None:
        """Fail the prompt with Cancelled; its slot is free at once."""
        self._pending.cancel(id)

    def stop(self) -> None:
        """Fail what is held with EngineError."""
        self._stopped.set()
        self._pending.close(EngineError("the engine is stopping"))
        self._timers.stop()
        self._heartbeat.idle()

    def _submit(self, pending: Pending, asked: _Asked) -> None:
        if asked.at_once and self._slots.pass_through(pending):
            self._finish(pending, asked)
        else:
            self._slots.enter(pending, partial(self._begin, pending, asked))

    def _begin(self, pending: Pending, asked: _Asked) -> None:
        timer = self._timers.at(time.monotonic() + asked.delay_s, partial(self._finish, pending, asked))
        pending.future.add_done_callback(lambda _: timer.cancel())
        with self._lock:
            beating, self._beating = self._beating, True
        if not beating:
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            self._beating = bool(self._slots.in_slots())
            if not self._beating:
                self._heartbeat.idle()
                return
            self._heartbeat.beat("decode")
        self._timers.at(time.monotonic() + self._beat_s, self._beat)

    def _finish(self, pending: Pending, asked: _Asked) -> None:
        if asked.failure:
            self._fail(pending, asked.failure)
        else:
            parts = [part for turn in pending.prompt.turns for part in turn.parts]
            words = sum(len(part.split()) if isinstance(part, str) else 1 for part in parts)
            try:
                text = _text(pending.prompt)
            except VQAError as error:
                pending.fail(error)
                return
            if pending.prompt.on_text:
                listener = TextStream(pending)
                for piece in _WORD.findall(text):
                    listener.tell(piece)
            pending.answer(Completion(text, "stop", prompt_tokens=words, completion_tokens=1))

    def _fail(self, pending: Pending, how: str) -> None:
        kind = getattr(errors, how, None)
        if how == "exit":
            os._exit(EXIT_STATUS)
        elif how == "crash":
            self._crash(pending.prompt.id)
        elif how == "hang":
            self._stopped.wait()
        elif isinstance(kind, type) and issubclass(kind, VQAError) and kind is not Cancelled:
            pending.fail(kind("the job's metadata asked for this failure"))
        else:
            pending.fail(InvalidJob("metadata echo_fail is the name of an error but Cancelled, or exit, crash or hang"))

    def _crash(self, id: str) -> None:
        if self._ending.acquire(blocking=False):
            self._on_crash(RuntimeError("the job's metadata asked for this crash"), (id,))
        self._pending.close(EngineError("the engine crashed"))


def _text(prompt: Prompt) -> str:
    """Raises AnswerTooLong or InvalidJob where it has a grammar."""
    if prompt.params.grammar is None:
        return echo_of(prompt)
    return short_text(prompt.params.grammar, prompt.params.max_new_tokens)


def _following(settled_first: Future[Completion]) -> Future[Completion]:
    """A future for whoever waits, settled after the callbacks that the engine's own has so far."""
    future: Future[Completion] = Future()
    future.set_running_or_notify_cancel()

    def follow(ended: Future[Completion]) -> None:
        if (error := ended.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(ended.result())

    settled_first.add_done_callback(follow)
    return future
