"""The worker's side of an engine in a process of its own; `workers.engine.process.child` is that process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace

from vqa.errors import EngineError, NotReady
from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from workers.engine.base import Completion, LoadingCrashed, OnCrash, Prompt, Stall
from workers.engine.factory import FACTORY
from workers.engine.process.engine_child import END_S, EXIT_S, EngineChild
from workers.engine.process.frames import AHEAD, BrokenFrame, FrameReader, frame
from workers.engine.process.messages import (
    TO_CHILD,
    TO_PARENT,
    Answered,
    Crashed,
    Failed,
    ForgetLongestPass,
    NotLoaded,
    Piece,
    Ready,
    Start,
    Status,
    ToParent,
)
from workers.engine.process.outbox import Outbox
from workers.engine.process.sent_prompts import SentPrompts
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import PendingPrompts
from workers.engine.runtime.timers import Timers
from workers.engine.settings import EngineSettings
from workers.engine.stats import Stats

log = logging.getLogger(__name__)

#: a process is not hung while it is silent for less, as it sends ten statuses a second
_MIN_SILENCE_S = 0.5


class EngineProcess:
    """Implements `Engine`: passes prompts on to an engine in a child process, and what comes of them back.

    Threads of a process take turns in Python. An engine launches hundreds of kernels a pass, each of which gives up its
    turn and waits for it again, for up to 0.5 s a pass among the threads of 256 jobs.
    """

    fit: Fit | None = None
    video_fit: VideoFit | None = None

    def __init__(
        self, settings: EngineSettings, slots: int, factory: str = FACTORY, pass_fds: Sequence[int] = ()
    ) -> None:
        """Make an engine by `factory`; its process keeps the descriptors `pass_fds` open until it ends."""
        self.model = settings.model
        self._pass_fds = pass_fds
        self._settings, self._slots, self._factory = settings, slots, factory
        self._timers = Timers("deadlines")
        self._pending = PendingPrompts(self._timers)
        self._outbox: Outbox[tuple[bytes, ...]] = Outbox(lambda buffers: buffers)
        self._sent = SentPrompts(self._outbox)
        self._heartbeat = Heartbeat(max(settings.hang_s, _MIN_SILENCE_S))
        self._status = Status(None, Stats())
        self._on_crash: OnCrash = lambda error, ids: None
        self._ready: Future[Ready] = Future()
        #: acquired by the first crash or `stop`, never released
        self._ending = threading.Lock()
        self._child: EngineChild | None = None
        # It starts the child, too, which is killed as the thread that started it ends.
        self._thread = threading.Thread(target=self._run, name="engine-process", daemon=True)

    @property
    def pid(self) -> int | None:
        """The number of the child process, None before it is started."""
        return self._child.pid if self._child else None

    @property
    def exit_status(self) -> int | None:
        """How the child process ended; None while it runs."""
        return self._child.status if self._child else None

    def start(self, on_crash: OnCrash) -> None:
        """Start the process and have it load the model.

        Raises NotReady, LoadingCrashed if the process was killed, or another VQAError of the engine.
        """
        self._on_crash = on_crash
        self._timers.start()
        self._heartbeat.beat("load")
        self._thread.start()
        try:
            ready = self._ready.result()
        except BaseException:
            self.stop()
            raise
        self.model, self.fit, self.video_fit = ready.model, ready.fit, ready.video_fit

    def stall(self) -> Stall | None:
        """Return the engine's stall, or one of its whole process if that has been silent for VQA_HANG_S."""
        silent = self._heartbeat.stall()
        return replace(silent, ids=self._sent.ids) if silent else self._status.stall

    def stats(self) -> Stats:
        """Return what was computed until at most 0.1 s ago; zeros if the engine does not count it."""
        return self._status.stats

    def forget_longest_pass(self) -> None:
        """See `HasStats`; takes effect within 0.1 s."""
        self._outbox.put(frame(TO_CHILD.encode(ForgetLongestPass())))

    def submit(self, prompt: Prompt) -> Future[Completion]:
        pending = self._pending.add(prompt)
        if not self._ready.done():
            pending.fail(EngineError("the engine has not started"))
        elif not pending.settled:
            self._sent.send(pending)
        return pending.future

    def cancel(self, id: str) -> None:
        self._pending.cancel(id)

    def stop(self) -> None:
        """Fail all pending prompts with EngineError, and end the process."""
        self._ending.acquire(blocking=False)
        self._heartbeat.idle()
        self._pending.close(EngineError("the engine is stopping"))
        if self._child is not None:
            self._child.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(END_S + EXIT_S)
        self._timers.stop()

    def _run(self) -> None:
        try:
            child = self._child = EngineChild(self._pass_fds)
            self._send_start(child)
        except Exception as error:
            # no process, descriptor or thread is to be had
            if self._child is not None:
                self._child.end()
            why = error.strerror if isinstance(error, OSError) else type(error).__name__
            self._ready.set_exception(NotReady(f"the engine's process cannot be started: {why}"))
            return
        why = ""
        try:
            self._receive_all(FrameReader(child.link, AHEAD))
        except BrokenFrame as error:
            why = f"sent a broken frame ({error})"
        except Exception as error:
            log.critical("reading from the engine's process failed", exc_info=error)
            why = f"could not be read from ({type(error).__name__})"
        self._ended(child, f"the engine's process {why or child.describe_end()}")
        child.stop()
        self._outbox.close(END_S)
        child.link.close()

    def _send_start(self, child: EngineChild) -> None:
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        message = Start(self._factory, self._settings.model_dump(mode="json"), self._slots, level)
        self._outbox.put(frame(TO_CHILD.encode(message)))
        self._outbox.start(child.link)

    def _receive_all(self, reader: FrameReader) -> None:
        while (received := reader.read()) is not None:
            self._receive(TO_PARENT.decode(received[0]))

    def _receive(self, message: ToParent) -> None:
        match message:
            case Piece():
                self._pass_on(message)
            case Answered():
                if pending := self._sent.take(message.number):
                    pending.answer(message.completion)
            case Failed():
                if pending := self._sent.take(message.number):
                    pending.fail(message.failure.error())
            case Status():
                self._status = message
                if not self._ending.locked():
                    self._heartbeat.beat("decode")
            case Crashed():
                self._crashed(EngineError(f"the engine crashed ({message.name})"), message.ids)
            case Ready():
                self._ready.set_result(message)
            case NotLoaded():
                self._ready.set_exception(message.failure.error())

    def _pass_on(self, piece: Piece) -> None:
        pending = self._sent.get(piece.number)
        if pending is None or pending.settled or pending.prompt.on_text is None:
            return
        try:
            pending.prompt.on_text(piece.text)
        except Exception as error:
            log.debug("passing text on failed", exc_info=True)
            pending.fail(EngineError(f"the engine failed on this prompt ({type(error).__name__})"))

    def _ended(self, child: EngineChild, how: str) -> None:
        if not self._ready.done():
            # one that ended by itself has said why, and would again
            kind = LoadingCrashed if child.was_killed else NotReady
            self._ready.set_exception(kind(f"{how} before the model was loaded"))
        elif self._ready.exception() is None:
            # a prompt may have entered a slot just before
            self._crashed(EngineError(how), self._sent.ids)

    def _crashed(self, error: EngineError, ids: Collection[str]) -> None:
        if self._ending.acquire(blocking=False):
            self._heartbeat.idle()
            self._on_crash(error, ids)
        self._pending.close(error)
