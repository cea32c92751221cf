"""Who gets a slot next, by the workers' own FairShare and Reserve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bench.simulation.jobs import Work
from vqa.jobs.lane import LANES, Lane
from workers.engine.fair_share import FairShare, Reserve

#: called when a job ends
OnEnd = Callable[[Work], None]


class Places:
    """The slots of an engine, and the jobs that wait for one."""

    def __init__(self, slots: int, reserve: Reserve) -> None:
        self._slots = slots
        self._reserve = reserve
        self._fair_share = FairShare()
        self._waiting: dict[Lane, deque[tuple[Work, OnEnd]]] = {lane: deque() for lane in LANES}
        self._taken: dict[Lane, int] = dict.fromkeys(LANES, 0)

    @property
    def taken(self) -> int:
        return sum(self._taken.values())

    def add(self, work: Work, on_end: OnEnd) -> None:
        """Let a job wait for a slot."""
        self._reserve.saw(work.lane)
        self._waiting[work.lane].append((work, on_end))

    def admit(self, now: float) -> tuple[Work, OnEnd] | None:
        """Give the next job a slot, if there are both."""
        if self.taken >= self._slots or not (lane := self._next()):
            return None
        work, on_end = self._waiting[lane].popleft()
        self._fair_share.served(lane, self._lanes())
        self._taken[lane] += 1
        work.began = now
        return work, on_end

    def leave(self, work: Work, now: float) -> None:
        """End a job and free its slot."""
        work.ended = now
        self._taken[work.lane] -= 1

    def _lanes(self) -> list[Lane]:
        return [lane for lane, waiting in self._waiting.items() if waiting]

    def _next(self) -> Lane | None:
        due = self._fair_share.is_due("bulk")
        for lane in self._fair_share.order(self._lanes()):
            if lane == "interactive" or self._reserve.admits_bulk(self._slots, self.taken, self._taken["bulk"], due):
                return "interactive" if lane == "interactive" else "bulk"
        return None
