"""The lifetime of a worker process and its disturbances, in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: from the first job that a stopping worker gives back to the end of its process: a call to Redis for each job, and the
#: second that its threads get to end. A card cannot be stopped sooner.
_GIVE_BACK_S = 3.0
#: the same for an engine that crashed or hangs, which computes nothing: a hang's time limit and the watchdog's interval
_BROKEN_S = 8.0


@dataclass
class Life:
    """One worker process, from start to end."""

    name: str
    pid: int
    log: Path
    begin: float
    ready: float | None = None
    end: float | None = None
    #: exit status; a negative one is a signal
    status: int | None = None
    #: how a fault meant to end it: `killed`, `drained` or `hurried` (a second SIGTERM)
    intended: str | None = None

    @property
    def gives_back_from(self) -> float:
        """From when on its jobs may run elsewhere although it has not ended."""
        if self.end is None:
            return float("inf")
        if self.status in (70, 71):
            return self.end - _BROKEN_S
        return self.end - (_GIVE_BACK_S if self.status == 0 else 0)


@dataclass
class Disturbance:
    """A time in which a worker, or all for `pid` None, could not renew its leases."""

    #: `stopped`, `cut off`, `without Redis`
    kind: str
    pid: int | None
    begin: float
    end: float = float("inf")
