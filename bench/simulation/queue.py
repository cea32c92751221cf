"""The lists that workers pop, and the order in which waiting bulk jobs get on theirs: `ledger/lua/fair_share.lua`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from bench.simulation.jobs import Work
from vqa.jobs.lane import LANES, Lane

#: bulk jobs that are queued before any has to wait, and the most that one call promotes; as in fair_share.lua
_LEAST_QUEUED = 64
_PORTION = 256


class Queue:
    """Jobs on both lists, and bulk jobs that wait for their tenant's turn."""

    def __init__(self, slots: int) -> None:
        """`slots` are those of all workers together."""
        self._target = max(_LEAST_QUEUED, 2 * slots)
        self._lists: dict[Lane, deque[Work]] = {lane: deque() for lane in LANES}
        #: tenants by turn
        self._waiting: dict[str, deque[Work]] = {}
        self._published: Callable[[], None] = lambda: None

    def on_published(self, call: Callable[[], None]) -> None:
        """Have a call made for each job that gets on a list."""
        self._published = call

    def accept(self, work: Work) -> None:
        """Queue a job, or let it wait for its turn."""
        if work.lane == "bulk" and (self._waiting or len(self._lists["bulk"]) >= self._target):
            self._waiting.setdefault(work.tenant, deque()).append(work)
        else:
            self._publish(work)

    def lanes(self) -> Sequence[Lane]:
        """Return the lanes with queued jobs."""
        return [lane for lane, works in self._lists.items() if works]

    def pop(self, lane: Lane) -> Work:
        """Take the oldest queued job of a lane."""
        work = self._lists[lane].popleft()
        if lane == "bulk" and self._waiting and 2 * len(self._lists["bulk"]) < self._target:
            self._promote()
        return work

    def __len__(self) -> int:
        return sum(map(len, self._lists.values())) + sum(map(len, self._waiting.values()))

    def _promote(self) -> None:
        """Queue waiting jobs, one of each tenant in turn."""
        for _ in range(min(_PORTION, self._target - len(self._lists["bulk"]))):
            if not self._waiting:
                return
            tenant = next(iter(self._waiting))
            works = self._waiting.pop(tenant)
            work = works.popleft()
            if works:
                self._waiting[tenant] = works
            self._publish(work)

    def _publish(self, work: Work) -> None:
        self._lists[work.lane].append(work)
        self._published()
