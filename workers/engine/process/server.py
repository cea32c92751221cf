"""Serves an engine to the worker at the other end of a link."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from functools import partial

from vqa.errors import VQAError
from workers.engine.base import Completion, Engine, Prompt
from workers.engine.process.failures import Failure
from workers.engine.process.frames import BrokenFrame, FrameReader, frame
from workers.engine.process.held_images import HeldImages
from workers.engine.process.messages import (
    TO_CHILD,
    TO_PARENT,
    Answered,
    Cancel,
    Crashed,
    Failed,
    ForgetLongestPass,
    Hold,
    NotLoaded,
    Piece,
    Ready,
    Release,
    Start,
    Status,
    Submit,
    ToChild,
    ToParent,
)
from workers.engine.process.outbox import Outbox
from workers.engine.stats import HasStats, Stats

log = logging.getLogger(__name__)

#: seconds between two statuses
_STATUS_S = 0.1

#: statuses are left out while so much waits to be sent: the worker is stopped, or busy
_MOST_WAITING = 1000


class Server:
    """Passes prompts to an engine, and what comes of them back."""

    def __init__(self, engine: Engine, link: socket.socket) -> None:
        self._engine = engine
        self._outbox: Outbox[ToParent] = Outbox(_encode)
        self._outbox.start(link)
        self._images = HeldImages()
        #: ids of prompts by number
        self._ids: dict[int, str] = {}

    def serve(self, reader: FrameReader) -> None:
        """Start the engine, and serve it until the link is closed. Raises BrokenFrame."""
        threading.Thread(target=self._load, name="load", daemon=True).start()
        while (received := reader.read()) is not None:
            message, raw = received
            self._receive(TO_CHILD.decode(message), raw)

    def _load(self) -> None:
        try:
            self._engine.start(self._crashed)
        except BaseException as error:
            if not isinstance(error, VQAError):
                log.critical("loading the model failed", exc_info=error)
            self._outbox.put(NotLoaded(Failure.from_error(error, "the engine failed to load")))
            return
        # A full collection looks at every object there is, 390,000 once a model is loaded: up to 0.3 s in which nothing
        # is launched. What is here now stays until the end.
        gc.collect()
        gc.freeze()
        self._outbox.put(Ready(self._engine.model, self._engine.fit, self._engine.video_fit))
        self._report()

    def _report(self) -> None:
        while True:
            if self._outbox.waiting < _MOST_WAITING:
                stats = self._engine.stats() if isinstance(self._engine, HasStats) else Stats()
                self._outbox.put(Status(self._engine.stall(), stats))
            time.sleep(_STATUS_S)

    def _receive(self, message: ToChild, raw: bytes) -> None:
        match message:
            case Hold():
                self._images.hold(message, raw)
            case Submit():
                self._submit(message)
            case Release():
                self._images.release(message.images)
            case Cancel():
                if (id := self._ids.get(message.number)) is not None:
                    self._engine.cancel(id)
            case ForgetLongestPass():
                if isinstance(self._engine, HasStats):
                    self._engine.forget_longest_pass()
            case Start():
                raise BrokenFrame("a second start")

    def _submit(self, message: Submit) -> None:
        number = message.number
        prompt = Prompt(
            id=message.id,
            turns=tuple(map(self._images.turn, message.turns)),
            params=message.params,
            lane=message.lane,
            deadline=message.deadline,
            attempt=message.attempt,
            metadata=message.metadata,
            alone=message.alone,
            cache_salt=message.cache_salt,
            on_text=partial(self._put_text, number) if message.streams else None,
        )
        self._ids[number] = message.id
        try:
            future = self._engine.submit(prompt)
        except Exception as error:
            log.exception("submitting a prompt failed")
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(self._settled, number))

    def _put_text(self, number: int, text: str) -> None:
        self._outbox.put(Piece(number, text))

    def _settled(self, number: int, future: Future[Completion]) -> None:
        self._ids.pop(number, None)
        error = future.exception()
        if error is None:
            self._outbox.put(Answered(number, future.result()))
        else:
            self._outbox.put(Failed(number, Failure.from_error(error)))
            # Its frames have the prompt's pixels and its future. They would be kept until a full collection, which is
            # rare in this process: gigabytes where many prompts fail.
            error.__traceback__ = None

    def _crashed(self, error: BaseException, ids: Collection[str]) -> None:
        # the worker has no traceback
        log.critical("the engine crashed", exc_info=error)
        self._outbox.put(Crashed(type(error).__name__, tuple(ids)))


def _encode(message: ToParent) -> tuple[bytes, ...]:
    """Return the frame of a message; an answer that is too large for one fails."""
    try:
        return frame(TO_PARENT.encode(message))
    except BrokenFrame as error:
        if not isinstance(message, Answered):
            raise
        failure = Failure("EngineError", f"the answer is too large to be passed on: {error}")
        return frame(TO_PARENT.encode(Failed(message.number, failure)))
