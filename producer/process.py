"""Exit statuses of `vqa`, and Ctrl-C and SIGTERM as an exception, so that `with` statements clean up in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: a mistake in the command or a setting; nothing was done
USAGE = 2
#: finished, but not for all: rows failed, or an id was not open
NOT_ALL = 3
#: Redis is lost or full, or SIGTERM; the same command resumes later (EX_TEMPFAIL of sysexits.h)
TEMPORARY = 75
#: Ctrl-C
INTERRUPTED = 130


class Stopped(BaseException):
    """The process received SIGINT or SIGTERM; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped on the first SIGINT or SIGTERM.

    Later signals are ignored for the rest of the process, so cleanup must end by itself.
    """
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for handled in before:
            signal.signal(handled, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopping:
            for number, handler in before.items():
                signal.signal(number, handler)
