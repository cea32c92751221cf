"""Ties a gateway process to its parent by a socket pair: the child sends heartbeats, and ends when the parent does."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Self

#: number of the child's end, in the child's environment; not a setting
DESCRIPTOR = "_VQA_GATEWAY_LIFELINE"

#: seconds between two heartbeats
_BEAT_S = 1.0


class Lifeline:
    """The child's end of the pair; does nothing in a gateway of one process, which has no parent."""

    def __init__(self, end: socket.socket | None = None) -> None:
        self._end = end

    @classmethod
    def inherited(cls) -> Self:
        """Return this process's end. Raises KeyError if no parent has left one."""
        end = socket.socket(fileno=int(os.environ.pop(DESCRIPTOR)))
        end.setblocking(False)
        return cls(end)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Send heartbeats from the event loop, so that a blocked one is noticed; call `on_end` when the parent ends."""
        if self._end is not None:
            asyncio.get_running_loop().add_reader(self._end, self._read, on_end)
            self._beat()

    def _beat(self) -> None:
        assert self._end is not None
        # full while the parent is stopped: what it has yet to read says the same
        with suppress(OSError):
            self._end.send(b".")
        asyncio.get_running_loop().call_later(_BEAT_S, self._beat)

    def _read(self, on_end: Callable[[], None]) -> None:
        assert self._end is not None
        try:
            ended = not self._end.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            # the parent was killed with heartbeats unread
            ended = True
        if ended:
            asyncio.get_running_loop().remove_reader(self._end)
            on_end()
