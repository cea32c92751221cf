"""An engine without a model: for tests, and to measure the queue alone.

The answer is `echo:` and the first 16 hex digits of a SHA-256 over the turns in order: each text as UTF-8, each image
as `WIDTHxHEIGHT`, each video as `FRAMESxWIDTHxHEIGHT`, each followed by a zero byte. So a test can predict it. A prompt
with a grammar gets a short text that matches it (`vqa/structured_output/grammar.py`), always the same. Several answers
(`n`) are the same, and choices that are scored are all as probable.

A job's metadata may set `echo_delay_s` (seconds before the answer, from the first piece of its text to the last) and
`echo_fail` (how the job fails then: the name of a class in vqa.errors, `exit` to end the process, `crash` to raise in
the engine, `hang` to block the engine's thread); `echo_fail_attempts` limits the failure to the first attempts.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from vqa import errors
from vqa.errors import Cancelled, EngineError, InvalidJob, VQAError
from vqa.images.fit import Fit
from vqa.images.video_fit import QWEN3_VL, VideoFit
from vqa.structured_output.grammar import short_text
from workers.engine.base import Completion, OnCrash, Prompt, SamplingParams, Stall
from workers.engine.echo.settings import EchoSettings
from workers.engine.echo.slots import Journal, Slots
from workers.engine.fair_share import Reserve
from workers.engine.image import RGBImage
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import EngineSettings
from workers.engine.text.text_stream import TextStream
from workers.engine.video import Video

#: exit status of `echo_fail=exit`
EXIT_STATUS = 70

#: pieces of an answer for `on_text`, without a delay: `echo:`, then the digits
_WORD = re.compile(r"\w+\W*|\W+")
#: characters of the further pieces that come during a delay
_PIECE = 4

#: seconds between heartbeats while slots are occupied; at most a fifth of VQA_HANG_S
_BEAT_S = 0.2


def echo_of(prompt: Prompt) -> str:
    """Return the echo engine's answer to a prompt without a grammar."""
    digest = hashlib.sha256()
    for turn in prompt.turns:
        for part in turn.parts:
            digest.update((part if isinstance(part, str) else _size(part)).encode() + b"\0")
    return f"echo:{digest.hexdigest()[:16]}"


def _size(part: RGBImage | Video) -> str:
    frames = f"{len(part.frames)}x" if isinstance(part, Video) else ""
    return f"{frames}{part.width}x{part.height}"


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """How a prompt's metadata makes the echo engine behave."""

    delay_s: float
    failure: str | None

    @classmethod
    def from_prompt(cls, prompt: Prompt, delay_s: float) -> Self:
        """Read the metadata; `delay_s` is the default delay. Raises InvalidJob."""
        metadata = prompt.metadata
        try:
            fails = prompt.attempt <= int(metadata.get("echo_fail_attempts", prompt.attempt))
            return cls(float(metadata.get("echo_delay_s", delay_s)), metadata.get("echo_fail") if fails else None)
        except ValueError:
            raise InvalidJob("metadata echo_delay_s and echo_fail_attempts must be numbers") from None

    @property
    def at_once(self) -> bool:
        """Whether the prompt can be settled in the caller's thread."""
        return self.delay_s <= 0 and self.failure not in ("crash", "hang")


class EchoEngine:
    """Answers with a hash of the prompt; `slots` prompts wait out their delays at the same time.

    A prompt without a delay takes no slot and is answered before `submit` returns, unless a prompt must run alone.
    """

    def __init__(self, settings: EngineSettings, slots: int, echo: EchoSettings | None = None) -> None:
        """Raises NotReady if the journal cannot be written."""
        self.model = "echo"
        self.fit: Fit | None = None
        self.video_fit: VideoFit | None = QWEN3_VL
        self._echo = echo or EchoSettings()
        self._journal = Journal(self._echo.journal) if self._echo.journal else None
        self._slots = Slots(slots, self._journal, Reserve.from_settings(settings, slots))
        self._timers = Timers("echo")
        self._pending = PendingPrompts(self._timers)
        self._heartbeat = Heartbeat(settings.hang_s)
        self._beat_s = min(_BEAT_S, settings.hang_s / 5)
        self._lock = threading.Lock()
        #: whether a timer for the next heartbeat is set
        self._beating = False
        self._stopped = threading.Event()
        self._on_crash: OnCrash = lambda error, ids: None
        #: acquired by the first crash, never released
        self._ending = threading.Lock()

    def start(self, on_crash: OnCrash) -> None:
        self._on_crash = on_crash
        self._heartbeat.beat("load")
        time.sleep(self._echo.load_s)
        self._heartbeat.idle()
        self._timers.start()

    def stall(self) -> Stall | None:
        """Return a Stall if the timers' thread, which stands for a computing thread, is silent for too long."""
        stall = self._heartbeat.stall()
        return stall and replace(stall, ids=self._slots.in_slots())

    def submit(self, prompt: Prompt) -> Future[Completion]:
        """Queue a prompt, or answer it at once if it has no delay."""
        pending = self._pending.add(prompt)
        if not pending.settled:
            try:
                self._submit(pending, _Behaviour.from_prompt(prompt, self._echo.delay_s))
            except InvalidJob as error:
                pending.fail(error)
        return pending.future if self._journal is None else _followed(pending.future)

    def cancel(self, id: str) -> None:
        self._pending.cancel(id)

    def stop(self) -> None:
        self._stopped.set()
        self._slots.close()
        self._pending.close(EngineError("the engine is stopping"))
        self._timers.stop()
        self._heartbeat.idle()

    def _submit(self, pending: Pending, behaviour: _Behaviour) -> None:
        if behaviour.at_once and self._slots.pass_through(pending):
            self._finish(pending, behaviour, TextStream(pending), time.monotonic())
        else:
            self._slots.enter(pending, partial(self._begin, pending, behaviour))

    def _begin(self, pending: Pending, behaviour: _Behaviour) -> None:
        stream, began = TextStream(pending), time.monotonic()
        timers = [self._timers.at(began + behaviour.delay_s, partial(self._finish, pending, behaviour, stream, began))]
        if pending.prompt.on_text:
            # an error of the text is that of the answer
            with suppress(VQAError):
                first, *others = _pieces(_text(pending.prompt))
                stream.write(first)
                for number, piece in enumerate(others[:-1], 1):
                    due = began + behaviour.delay_s * number / len(others)
                    timers.append(self._timers.at(due, partial(stream.write, piece)))

        def cancel(future: Future[Completion]) -> None:
            for timer in timers:
                timer.cancel()

        pending.future.add_done_callback(cancel)
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

    def _finish(self, pending: Pending, behaviour: _Behaviour, stream: TextStream, began: float) -> None:
        if behaviour.failure:
            self._fail(pending, behaviour.failure)
        else:
            parts = [part for turn in pending.prompt.turns for part in turn.parts]
            words = sum(len(part.split()) if isinstance(part, str) else 1 for part in parts)
            try:
                text = _text(pending.prompt)
            except VQAError as error:
                pending.fail(error)
                return
            if pending.prompt.on_text:
                # what `_begin` has sent is not sent again
                stream.restart()
                _write(stream, _WORD.findall(text))
            made = Completion(
                *(text, "stop", words),
                completion_tokens=1,
                slot_wait_s=began - pending.since,
                decode_s=time.monotonic() - began,
            )
            pending.answer(_completion(pending.prompt.params, made))

    def _fail(self, pending: Pending, failure: str) -> None:
        kind = getattr(errors, failure, None)
        if failure == "exit":
            os._exit(EXIT_STATUS)
        elif failure == "crash":
            self._crash(pending.prompt.id)
        elif failure == "hang":
            self._stopped.wait()
        elif isinstance(kind, type) and issubclass(kind, VQAError) and kind is not Cancelled:
            pending.fail(kind("the job's metadata asked for this failure"))
        else:
            pending.fail(InvalidJob("metadata echo_fail must be exit, crash, hang or an error other than Cancelled"))

    def _crash(self, id: str) -> None:
        if self._ending.acquire(blocking=False):
            self._on_crash(RuntimeError("the job's metadata asked for this crash"), (id,))
        self._pending.close(EngineError("the engine crashed"))


def _write(stream: TextStream, pieces: Iterable[str]) -> None:
    for piece in pieces:
        stream.write(piece)


def _pieces(text: str) -> list[str]:
    """Split a text into its first word and short pieces of the rest."""
    first = next(iter(_WORD.findall(text)), "")
    return [first, *(text[start : start + _PIECE] for start in range(len(first), len(text), _PIECE))]


def _completion(params: SamplingParams, one: Completion) -> Completion:
    """Return `n` answers, which are the same, or choices of the same probability."""
    count = len(params.choices) or params.n
    if params.choices:
        return replace(one, completion_tokens=count, choices=dict.fromkeys(params.choices, 1 / count))
    return replace(one, completion_tokens=count, alternatives=(one,) * (count - 1))


def _text(prompt: Prompt) -> str:
    """Raises AnswerTooLong or InvalidJob if the prompt has a grammar that the text cannot match."""
    if prompt.params.grammar is None:
        return echo_of(prompt)
    return short_text(prompt.params.grammar, prompt.params.max_new_tokens)


def _followed(settled_first: Future[Completion]) -> Future[Completion]:
    """Return a future that is settled after the callbacks of `settled_first`, which free the slot."""
    future: Future[Completion] = Future()
    future.set_running_or_notify_cancel()

    def follow(ended: Future[Completion]) -> None:
        if (error := ended.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(ended.result())

    settled_first.add_done_callback(follow)
    return future
