"""Whether jobs can be answered now, looked up at most once a second, and when a refused caller should come again."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from producer.client.aio import AsyncClient
from producer.gateway.errors import NoWorker
from vqa.errors import QueueFull, QueueUnavailable, VQAError
from vqa.job import LANES, Lane
from vqa.ledger.records import State, WorkerInfo

#: seconds for which a look at Redis is good
_FRESH_S = 1.0
#: seconds after which Redis counts as away; a look goes on in its thread
_LOOK_S = 2.0

#: seconds of a Retry-After
_SHORTEST_S, _LONGEST_S = 1.0, 60.0
#: a share of the queue has to be answered before a caller that was refused is worth an attempt
_SHARE = 0.01
#: seconds, while no worker is ready: most load their model within a few of these
_NO_WORKER_S = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """What Redis said. `problem` is empty unless it did not answer."""

    workers: Sequence[WorkerInfo] = ()
    open_jobs: int = 0
    problem: str = ""

    @property
    def reasons(self) -> list[str]:
        """Why jobs cannot be answered now; empty if they can."""
        if self.problem:
            return [self.problem]
        return [] if self.workers else ["no worker is ready"]

    @property
    def answers_per_s(self) -> float:
        """Answers a second of all workers, over the last minute."""
        return sum(_number(worker.about.get("answered_1m")) for worker in self.workers) / 60


class Readiness:
    """One for each gateway process; all its requests share a look."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._last = Look()
        self._looked_at = -math.inf
        self._lock = asyncio.Lock()
        #: monotonic time since when Redis has not answered
        self._away_since: float | None = None

    async def look(self) -> Look:
        """Return what Redis said at most a second ago. Never raises, and takes two seconds at most."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= _FRESH_S:
                self._last = await self._look()
                self._looked_at = time.monotonic()
            return self._last

    async def _look(self) -> Look:
        try:
            async with asyncio.timeout(_LOOK_S):
                workers, counts = await asyncio.gather(self._client.workers(), self._client.counts())
        except (QueueUnavailable, TimeoutError):
            self._away_since = self._away_since or time.monotonic()
            # the error itself names the host, which is nobody's business outside
            return Look(problem="Redis does not answer")
        self._away_since = None
        return Look(workers, _total(counts))

    async def require_worker(self) -> Sequence[WorkerInfo]:
        """Return the ready workers. Raises NoWorker if there is none, QueueUnavailable."""
        look = await self.look()
        if look.problem:
            raise QueueUnavailable(look.problem)
        if not look.workers:
            raise NoWorker("no worker is ready; send the request again later, or to lane bulk, which waits for one")
        return look.workers

    def retry_after_s(self, error: VQAError) -> float:
        """Return after how many seconds a caller that got this error should try again.

        A full queue: the time to answer a hundredth of it at the rate of the last minute. Redis away: as long as it
        has been away. A tenth of random time keeps callers apart.
        """
        wait_s = _NO_WORKER_S
        if isinstance(error, QueueFull) and self._last.answers_per_s:
            wait_s = _SHARE * self._last.open_jobs / self._last.answers_per_s
        elif isinstance(error, QueueUnavailable):
            wait_s = time.monotonic() - self._away_since if self._away_since else _SHORTEST_S
        return min(_LONGEST_S, max(_SHORTEST_S, wait_s) * random.uniform(1.0, 1.1))


def _total(counts: Mapping[Lane, Mapping[State, int]]) -> int:
    return sum(sum(counts[lane].values()) for lane in LANES)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
