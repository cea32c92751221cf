"""Ctrl-C and SIGTERM as one exception, so that everything a `with` statement holds is given up in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: a mistake in the command or in a setting; nothing was done
USAGE = 2
#: it was done, and not for all: rows failed, or an id was not open
NOT_ALL = 3
#: a lost or a full Redis, or SIGTERM: the same command later goes on where this one ended (EX_TEMPFAIL of sysexits.h)
TEMPORARY = 75
#: by Ctrl-C
INTERRUPTED = 130


class Stopped(BaseException):
    """Somebody asked this process to stop; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped on the first SIGINT or SIGTERM inside.

    Later ones change nothing, for the rest of the process: what cleans up must be bounded, and exit soon.
    """
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for each in before:
            signal.signal(each, signal.SIG_IGN)
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
