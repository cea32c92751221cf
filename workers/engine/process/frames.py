"""Frames on the socket pair: the sizes of both parts, a message in JSON, then raw bytes, which only images have."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

#: bytes of the JSON and of the raw bytes, unsigned, in network order
_SIZES = struct.Struct("!II")

#: An answer of 16,384 tokens with the twenty likeliest of each takes 30 MB; recv() and send() take up to 2 GiB.
MOST_JSON, MOST_RAW = 2**28, 2**30

#: buffers of one `sendmsg`; Linux allows 1,024
_BUFFERS = 512

#: a thread's read of small frames takes what has come, up to this many bytes
AHEAD = 2**16


class BrokenFrame(Exception):
    """What came is no frame, or not a message of the protocol: the two ends do not run the same code."""


def frame(message: bytes, raw: bytes = b"") -> tuple[bytes, ...]:
    """Return the buffers of a frame. Raises BrokenFrame if it is larger than a reader takes."""
    _check_sizes(len(message), len(raw))
    head = _SIZES.pack(len(message), len(raw)) + message
    return (head, raw) if raw else (head,)


def send(link: socket.socket, buffers: Sequence[bytes]) -> None:
    """Send all buffers, with one call to the system for up to 512. Raises OSError."""
    for first in range(0, len(buffers), _BUFFERS):
        rest = [memoryview(buffer) for buffer in buffers[first : first + _BUFFERS]]
        while rest:
            sent = link.sendmsg(rest)
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]


class FrameReader:
    """Reads frames from a blocking socket; one thread may use it."""

    def __init__(self, link: socket.socket, ahead: int = 0) -> None:
        """Read up to `ahead` bytes more than asked for: fewer calls for small frames, a copy of large ones."""
        self._link = link
        self._ahead = ahead
        self._buffer = b""
        self._at = 0

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the two parts of the next frame, or None if the other end is closed. Raises BrokenFrame."""
        head = self._take(_SIZES.size)
        if head is None:
            return None
        message_size, raw_size = _SIZES.unpack(head)
        _check_sizes(message_size, raw_size)
        message, raw = self._take(message_size), self._take(raw_size)
        return None if message is None or raw is None else (message, raw)

    def _take(self, count: int) -> bytes | None:
        end = self._at + count
        if end > len(self._buffer):
            data = self._buffer[self._at :]
            while len(data) < count:
                received = self._receive(count - len(data))
                if not received:
                    return None
                # without the sum, and so without a copy, where one call gets all
                data = data + received if data else received
            self._buffer, self._at, end = data, 0, count
        taken = self._buffer[self._at : end]
        self._at = end
        if end == len(self._buffer):
            # an image must not live until the next frame
            self._buffer, self._at = b"", 0
        return taken

    def _receive(self, needed: int) -> bytes:
        try:
            if needed > self._ahead:
                # the system copies all of it while other threads run
                return self._link.recv(needed, socket.MSG_WAITALL)
            return self._link.recv(self._ahead)
        except OSError:
            # reset, as the other end was killed, or closed by this process
            return b""


def _check_sizes(message: int, raw: int) -> None:
    if not 0 < message <= MOST_JSON or raw > MOST_RAW:
        raise BrokenFrame(f"a frame of {message} and {raw} bytes; at most {MOST_JSON} and {MOST_RAW} are allowed")
