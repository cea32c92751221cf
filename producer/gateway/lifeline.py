"""What ties a gateway's processes to their parent: a socket pair, with heartbeats one way, and an end when one ends."""

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
    """The child's end; does nothing in a process without a parent of ours."""

    def __init__(self, end: socket.socket | None = None) -> None:
        self._end = end

    @classmethod
    def inherited(cls) -> Self:
        """Return this process's end. Raises KeyError if no parent has left one."""
        end = socket.socket(fileno=int(os.environ.pop(DESCRIPTOR)))
        end.setblocking(False)
        return cls(end)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Beat on the event loop, so that a loop that stands is noticed; call `on_end` when the parent has ended."""
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
