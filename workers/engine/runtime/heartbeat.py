"""A computing thread's sign of life, and how long it may be silent in what it is at."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from workers.engine.base import Phase, Stall

#: Loading may mean downloading, and a process that loads holds no job; with a supervisor VQA_READY_TIMEOUT_S comes
#: first.
LOAD_S = 4 * 3600.0

#: prefill of a whole microbatch has no steps that it could tell of
_PREFILL_TIMES = 5


def limit_s(phase: Phase, hang_s: float) -> float:
    """Seconds that a thread may be silent in this phase when one decode step may take `hang_s`."""
    match phase:
        case "load":
            return max(LOAD_S, hang_s)
        case "prefill":
            return _PREFILL_TIMES * hang_s
        case "decode":
            return hang_s


class Heartbeat:
    """Beaten by the one thread that computes, looked at by any other.

    A beat is one attribute write (0.2 us): no lock, so a thread that hangs holds up nobody who looks.
    """

    __slots__ = ("_hang_s", "_now", "_sign")

    def __init__(self, hang_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._hang_s = hang_s
        self._now = now
        self._sign: tuple[Phase, Collection[str], float] | None = None

    def beat(self, phase: Phase, ids: Collection[str] = ()) -> None:
        """Alive, in this phase, with these prompts; `ids` is not copied and not to change."""
        self._sign = (phase, ids, self._now())

    def idle(self) -> None:
        """Nothing to compute: silence means nothing until the next beat."""
        self._sign = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The prompts of the last beat; none when parked."""
        sign = self._sign
        return tuple(sign[1]) if sign else ()

    def stall(self) -> Stall | None:
        """Whether the last beat is too long ago for its phase."""
        sign = self._sign
        if sign is None:
            return None
        phase, ids, since = sign
        silent_s, limit = self._now() - since, limit_s(phase, self._hang_s)
        return Stall(phase, silent_s, tuple(ids), limit) if silent_s > limit else None
