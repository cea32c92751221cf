"""The heartbeat of a computing thread, and how long each phase may go without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from workers.engine.base import Phase, Stall

#: Loading may include a download, and a process that loads holds no jobs. With a supervisor, VQA_READY_TIMEOUT_S is
#: reached first.
LOAD_S = 4 * 3600.0

#: prefill of a whole microbatch runs without a heartbeat in between
_PREFILL_TIMES = 5


def limit_s(phase: Phase, hang_s: float) -> float:
    """Return the seconds that a phase may go without a heartbeat, where a decode step may take `hang_s`."""
    return {"load": max(LOAD_S, hang_s), "prefill": _PREFILL_TIMES * hang_s}.get(phase, hang_s)


class Heartbeat:
    """Beaten by one computing thread, read by any other.

    A beat is one attribute write (0.2 us) without a lock, so a hanging thread never blocks its watcher.
    """

    __slots__ = ("_hang_s", "_last", "_now")

    def __init__(self, hang_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._hang_s = hang_s
        self._now = now
        self._last: tuple[Phase, Collection[str], float] | None = None

    def beat(self, phase: Phase, ids: Collection[str] = ()) -> None:
        """Record that the thread is alive in this phase, with these prompts; `ids` is not copied, do not change it."""
        self._last = (phase, ids, self._now())

    def idle(self) -> None:
        """Record that there is nothing to compute: no beat is expected until the next one."""
        self._last = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The prompts of the last beat; empty when idle."""
        last = self._last
        return tuple(last[1]) if last else ()

    def stall(self) -> Stall | None:
        """Return a Stall if the last beat is older than its phase allows."""
        last = self._last
        if last is None:
            return None
        phase, ids, since = last
        silent_s, limit = self._now() - since, limit_s(phase, self._hang_s)
        return Stall(phase, silent_s, tuple(ids), limit) if silent_s > limit else None
