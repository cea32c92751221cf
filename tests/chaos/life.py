"""What befell a worker's process, in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: From the first job that a leaving worker gives back to the end of its process: a call to Redis for each, and the
#: second that its threads have to end by themselves. A card cannot be called off sooner than that.
_LEAVING_S = 3.0
#: The same with an engine that crashed or hangs, which does not compute whatever its journal lacks: a hang's limit and
#: the watchdog's rounds before it.
_BROKEN_S = 8.0


@dataclass
class Life:
    """One process of a worker, from start to end."""

    name: str
    pid: int
    log: Path
    begin: float
    ready: float | None = None
    end: float | None = None
    #: as subprocess has it: negative is a signal
    status: int | None = None
    #: `killed`, `drained` or `hurried` (a second SIGTERM) by us; None while nobody meant it to end
    meant: str | None = None

    @property
    def departs_from(self) -> float:
        """From when on what it held may be another's though it has not ended."""
        if self.end is None:
            return float("inf")
        if self.status in (70, 71):
            return self.end - _BROKEN_S
        return self.end - (_LEAVING_S if self.status == 0 else 0)


@dataclass
class Disturbance:
    """A time in which a worker could not renew; of all workers where `pid` is None."""

    #: `stopped`, `cut off`, `without Redis`
    kind: str
    pid: int | None
    begin: float
    end: float = float("inf")
