"""Frames that wait to be sent, and the thread that sends them: all that wait go out together."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from workers.engine.process.frames import send

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Sends items in the order of `put`, which never waits: the other end may be stopped. Thread-safe."""

    def __init__(self, encode: Callable[[Item], Sequence[bytes]]) -> None:
        """`encode` returns the frames of an item; the sending thread calls it."""
        self._encode = encode
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self, link: socket.socket) -> None:
        """Send what was put, and what will be. An item that cannot be sent because the other end is gone is dropped."""
        self._link = link
        self._thread.start()

    def put(self, item: Item) -> None:
        self._queue.put(item)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def close(self, timeout_s: float) -> None:
        """Send what was put before, for at most `timeout_s` seconds; end the thread."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._send_all()
        except OSError:
            # the reader of the link hears of a closed one
            pass
        except Exception as error:
            log.critical("messages of an engine's process cannot be sent any more", exc_info=error)
            # nobody must wait for what is not sent
            with suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)

    def _send_all(self) -> None:
        item = self._queue.get()
        while item is not None:
            buffers: list[bytes] = []
            while item is not None:
                buffers += self._encode(item)
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            send(self._link, buffers)
            if item is not None:
                item = self._queue.get()
