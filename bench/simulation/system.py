"""Workers that pop a queue: arrivals in, jobs with the times at which they began and ended out."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from functools import partial

from bench.simulation.events import Events
from bench.simulation.jobs import Work
from bench.simulation.queue import Queue
from bench.simulation.worker import Setup, Worker

#: seconds after which a pop that found nothing ends, and another begins; `polling_interval` in vqa/celery.py
POLL_S = 0.1

#: of many idle workers, so many are looked at for the one whose pop began first
_TRIED = 8


class System:
    """A queue with its workers."""

    def __init__(self, setup: Setup, seed: int = 0) -> None:
        self.events = Events()
        self.queue = Queue(setup.workers * setup.slots)
        self.queue.on_published(self._published)
        self._draw = random.Random(seed)
        self._workers = [Worker(self.events, self.queue, setup, self.serve) for _ in range(setup.workers)]
        self._idle = _Idle()
        for worker in self._workers:
            worker.blocked_s = self._draw.uniform(-POLL_S, 0.0)
            self._idle.add(worker)

    def run(self, *arrivals: Iterable[Work], until_s: float = float("inf")) -> list[Work]:
        """Run the jobs, each of `arrivals` in order of time; return them all, those that have not ended, too."""
        works: list[Work] = []
        coming = heapq.merge(*arrivals, key=lambda work: work.arrives)

        def arrive(work: Work) -> None:
            works.append(work)
            if (following := next(coming, None)) is not None:
                self.events.at(following.arrives, partial(arrive, following))
            self.queue.accept(work)

        if (first := next(coming, None)) is not None:
            self.events.at(first.arrives, partial(arrive, first))
        self.events.run(until_s)
        return works

    def serve(self, worker: Worker) -> None:
        """Let a worker pop as long as it may; then it blocks, unless it is full."""
        while lane := worker.lane():
            worker.pop(lane)
        if not worker.is_full:
            worker.blocked_s = self.events.now
            self._idle.add(worker)

    def _published(self) -> None:
        # not at once: a pop promotes jobs, too
        self.events.after(0.0, self._offer)

    def _offer(self) -> None:
        """Give a job to the worker that Redis would: of those that block, the one whose pop began first."""
        for worker in self._candidates():
            if lane := worker.lane():
                worker.pop(lane)
                if worker.is_full:
                    self._idle.discard(worker)
                else:
                    worker.blocked_s = self.events.now
                return

    def _candidates(self) -> Iterator[Worker]:
        idle = self._idle.workers
        some = self._draw.sample(idle, _TRIED) if len(idle) > _TRIED else list(idle)
        yield from sorted(some, key=self._pop_began_s)
        if len(idle) > _TRIED:
            yield from list(idle)

    def _pop_began_s(self, worker: Worker) -> float:
        blocked = self.events.now - worker.blocked_s
        return self.events.now - blocked % POLL_S


class _Idle:
    """Workers that block: a set of which a sample can be drawn."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._places: dict[Worker, int] = {}

    def add(self, worker: Worker) -> None:
        if worker not in self._places:
            self._places[worker] = len(self.workers)
            self.workers.append(worker)

    def discard(self, worker: Worker) -> None:
        if (place := self._places.pop(worker, None)) is not None:
            last = self.workers.pop()
            if last is not worker:
                self.workers[place] = last
                self._places[last] = place
