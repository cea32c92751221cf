"""Standard output and error that never block and never fail, whatever becomes of their reader.

A full pipe, a broken one, a full disk or descriptors that were closed at start must not stop a worker. One thread
writes; what does not fit into its queue, or cannot be written, is dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import stat
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from queue import SimpleQueue

from vqa.log.format import JsonFormatter

#: writes that wait for a reader; log lines have some hundred bytes each
_MOST = 10_000

#: seconds for the rest to be written when the process ends
_DRAIN_S = 1.0

_STDOUT, _STDERR = 1, 2

#: format of a line that says how many were lost; as the log's own, which `set_up_logging` sets
_LOST_MESSAGE = "%d writes to standard output and error were lost: %s"
_LOST = f"%s WARNING %s: {_LOST_MESSAGE}"


class Output:
    """A thread that writes to file descriptors for all others."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        # both are reentrant: a signal handler may log while its thread does
        self._queue: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self._lock = threading.RLock()
        self._pending = 0
        self._lost = 0
        self._why = ""
        threading.Thread(target=self._run, name="output", daemon=True).start()

    def put(self, fd: int, text: str) -> None:
        """Write `text` soon, or count it as lost if the queue is full. Never blocks or raises."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._pending >= self._most:
                self._lost, self._why = self._lost + 1, "nobody reads them"
                return
            self._pending += 1
            self._queue.put((fd, data))

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Wait until everything is written, at most `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            fd, data = self._queue.get()
            problem = _write(fd, data)
            with self._lock:
                self._pending -= 1
                if problem:
                    self._lost, self._why = self._lost + 1, problem
                lost, why = (0, "") if problem or self._pending > self._most // 2 else (self._lost, self._why)
                self._lost -= lost
            if lost and _write(fd, _lost_line(lost, why)):
                # not said, so still to be said
                with self._lock:
                    self._lost += lost


def _lost_line(count: int, why: str) -> bytes:
    told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": _LOST_MESSAGE}
    record = logging.makeLogRecord({**told, "args": (count, why), "created": time.time()})
    formatters = [each.formatter for each in logging.getLogger().handlers if isinstance(each.formatter, JsonFormatter)]
    if formatters:
        return (formatters[0].format(record) + "\n").encode()
    now = logging.Formatter().formatTime(logging.makeLogRecord({"created": time.time()}))
    return (_LOST % (now, __name__, count, why) + "\n").encode()


def _write(fd: int, data: bytes) -> str:
    """Write all of `data`, waiting for a reader; return why that is not possible, empty if it was."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError as error:
            return error.strerror or type(error).__name__
    return ""


class Stream(io.TextIOBase):
    """Replaces `sys.stdout` or `sys.stderr`."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, output: Output, fd: int) -> None:
        self._output = output
        self._fd = fd

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            # by this error click, and with it Celery's --help, tells a stream of text from one of bytes
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._output.put(self._fd, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


@cache
def protect_output() -> Output:
    """Let this process print and log without ever blocking or failing; once, before anything is printed."""
    for stream in (sys.stdout, sys.stderr):
        # None if the descriptor was closed at start
        with suppress(OSError, AttributeError):
            stream.flush()
    _fill(0)
    for fd in (_STDOUT, _STDERR):
        _fill(fd)
        _unblock(fd)
    output = Output()
    # Celery prints to the originals
    sys.stdout = sys.__stdout__ = Stream(output, _STDOUT)  # type: ignore[misc, assignment]  # constants in typeshed
    sys.stderr = sys.__stderr__ = Stream(output, _STDERR)  # type: ignore[misc, assignment]  # constants in typeshed
    atexit.register(output.drain)
    return output


def _fill(fd: int) -> None:
    """Open /dev/null as `fd` if it is closed, or the next socket gets the number and libraries print into it."""
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd)
        if null != fd:
            os.close(null)


def _unblock(fd: int) -> None:
    """Let writes to a pipe, socket or terminal fail when it is full: libraries in C and signal handlers write directly.

    Decoders inherit this. A pipe or terminal is opened anew, as a flag on the old one would change it for everybody.
    """
    mode = os.fstat(fd).st_mode
    # no /proc on this system, or no right to open what somebody else has opened
    with suppress(OSError):
        if stat.S_ISSOCK(mode):
            os.set_blocking(fd, False)
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(own, fd)
            os.close(own)
