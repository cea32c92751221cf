"""An engine without a model: for tests, and to measure the queue alone.

The answer to a prompt is `echo:` and the first 16 hex digits of the SHA-256 over its turns in order: each text as
UTF-8, each picture as `WIDTHxHEIGHT`, each of them ended by a zero byte; so a test can say beforehand what it must be.
A job's metadata may ask for more: `echo_delay_s` (seconds before the answer), and `echo_fail` (how the job fails: the
name of a class in vqa.errors, `exit` to end the process, `crash` for an exception that escapes the engine), on its
attempts up to `echo_fail_attempts` where that is set.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Self

from vqa import errors
from vqa.errors import EngineError, InvalidJob, VQAError
from vqa.job import LANES
from workers.engine.base import Completion, Prompt
from workers.engine.clock import Alarm, Clock
from workers.engine.held import Held, Holdings
from workers.engine.settings import EngineSettings

#: exit status of a process that `echo_fail=exit` ends
EXIT_STATUS = 70


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


class EchoEngine:
    """Answers with a hash of the prompt; `slots` prompts spend their delay at once, the rest wait.

    Without a delay the future is settled before `submit` returns: no slot, no other thread.
    """

    def __init__(self, settings: EngineSettings, slots: int) -> None:
        self.model = "echo"
        self._delay_s = settings.echo_delay_s
        self._load_s = settings.echo_load_s
        self._lock = threading.Lock()
        self._free = slots
        self._waiting: dict[str, deque[tuple[Held, _Asked]]] = {lane: deque() for lane in LANES}
        self._clock = Clock("echo")
        self._holdings = Holdings(self._clock)
        self._on_crash: Callable[[BaseException], None] = lambda error: None
        #: taken by the first crash, never let go
        self._ending = threading.Lock()

    def start(self, on_crash: Callable[[BaseException], None]) -> None:
        """Wait as long as loading is said to take."""
        self._on_crash = on_crash
        time.sleep(self._load_s)
        self._clock.start()

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt, or answer it at once where it asks for no delay."""
        held = self._holdings.hold(prompt)
        if held.settled:
            return held.future
        try:
            asked = _Asked.by(prompt, self._delay_s)
        except InvalidJob as error:
            held.fail(error)
            return held.future
        if asked.delay_s > 0:
            with self._lock:
                self._waiting[prompt.lane].append((held, asked))
            self._fill_slots()
        else:
            self._finish(held, asked)
        return held.future

    def cancel(self, id: str) -> None:
        """Fail the prompt with Cancelled; its slot is free at once."""
        self._holdings.cancel(id)

    def stop(self) -> None:
        """Fail what is held with EngineError."""
        self._holdings.close(EngineError("the engine is stopping"))
        self._clock.stop()

    def _fill_slots(self) -> None:
        while (entry := self._next()) is not None:
            held, asked = entry
            alarm = self._clock.at(time.monotonic() + asked.delay_s, partial(self._finish, held, asked))
            held.future.add_done_callback(partial(self._leave_slot, alarm))

    def _next(self) -> tuple[Held, _Asked] | None:
        with self._lock:
            for lane in LANES:
                while self._free and self._waiting[lane]:
                    entry = self._waiting[lane].popleft()
                    if not entry[0].settled:
                        self._free -= 1
                        return entry
        return None

    def _leave_slot(self, alarm: Alarm, _: Future[Completion]) -> None:
        alarm.cancel()
        with self._lock:
            self._free += 1
        self._fill_slots()

    def _finish(self, held: Held, asked: _Asked) -> None:
        if asked.failure:
            self._fail(held, asked.failure)
        else:
            parts = [part for turn in held.prompt.turns for part in turn.parts]
            words = sum(len(part.split()) if isinstance(part, str) else 1 for part in parts)
            held.answer(Completion(echo_of(held.prompt), "stop", prompt_tokens=words, completion_tokens=1))

    def _fail(self, held: Held, how: str) -> None:
        kind = getattr(errors, how, None)
        if how == "exit":
            os._exit(EXIT_STATUS)
        elif how == "crash":
            # the clock's thread is this engine's loop: the caller of submit is not to see it
            self._clock.at(time.monotonic(), self._crash)
        elif isinstance(kind, type) and issubclass(kind, VQAError):
            held.fail(kind("the job's metadata asked for this failure"))
        else:
            held.fail(InvalidJob("metadata echo_fail is the name of an error, exit or crash"))

    def _crash(self) -> None:
        if self._ending.acquire(blocking=False):
            self._on_crash(RuntimeError("the job's metadata asked for this crash"))
        self._holdings.close(EngineError("the engine crashed"))
