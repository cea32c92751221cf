"""Looks up whether jobs can be answered now, at most once a second, and when a refused caller should try again."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from producer.client.models import takes
from producer.gateway.errors import NotFound, NoWorker
from producer.gateway.tasks import end_tasks
from vqa.errors import ModelNotFound, QueueFull, QueueUnavailable, VQAError
from vqa.ledger.ledger import DEADLINES, WORKERS, living_workers
from vqa.ledger.models import CANARIES, MODELS, Models
from vqa.ledger.records import WorkerInfo
from vqa.redis.connection import REDIS_ERRORS, connect_async
from vqa.redis.outage import RedisOutage
from vqa.settings import QueueSettings

#: seconds for which a look at Redis is good
_FRESH_S = 1.0
#: the same, before a model is refused
_FRESHER_S = 0.1
#: seconds between two looks that nobody asks for
_WATCH_S = 5.0
#: seconds after which Redis counts as away
_LOOK_S = 2.0

#: seconds of a Retry-After
_SHORTEST_S, _LONGEST_S = 1.0, 60.0
#: part of a full queue that has to be answered before a refused caller should try again
_SHARE = 0.01
#: seconds, while no worker is ready: most load their model within a few of these
_NO_WORKER_S = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """What Redis said. `problem` is empty unless it did not answer."""

    workers: Sequence[WorkerInfo] = ()
    open_jobs: int = 0
    problem: str = ""
    #: as they were when Redis last answered; None if it never has
    models: Models | None = None

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

    def __init__(self, settings: QueueSettings) -> None:
        self._lease_s, self._model_keep_s = settings.lease_s, settings.model_keep_s
        # of its own, so that a look that is given up holds up nothing else
        self._redis = connect_async(settings, retry_s=0)
        self._outage = RedisOutage(settings)
        self._last = Look()
        self._looked_at = -math.inf
        self._lock = asyncio.Lock()
        self._closing = False
        #: monotonic time since when Redis has not answered
        self._away_since: float | None = None

    async def look(self, fresh_s: float = _FRESH_S) -> Look:
        """Return what Redis said at most a second ago. Never raises, and takes two seconds at most."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= fresh_s:
                self._last = await self._look()
                self._looked_at = time.monotonic()
            return self._last

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Self]:
        """Look in the background too; close the connection at the end."""
        task = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            self._closing = True
            await end_tasks(task)
            await self._redis.aclose()

    async def _watch(self) -> None:
        """Look every few seconds, so that an outage of Redis is logged and Retry-After follows recent figures."""
        while True:
            await self.look()
            # on Python 3.11 a cancellation can be lost within a command of Redis
            if self._closing:
                return
            await asyncio.sleep(_WATCH_S)

    async def _look(self) -> Look:
        try:
            async with asyncio.timeout(_LOOK_S):
                found = await self._read()
        except REDIS_ERRORS as error:
            self._outage.failed(error)
            self._away_since = self._away_since or time.monotonic()
            # the log names the host, which is nobody's business outside
            return Look(problem="Redis does not answer", models=self._last.models)
        self._away_since = None
        self._outage.answered()
        return found

    async def _read(self) -> Look:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(WORKERS)
            pipe.zcard(DEADLINES)
            pipe.hgetall(MODELS)
            pipe.hgetall(CANARIES)
            (seconds, _), listed, open_jobs, served, canaries = await pipe.execute()
        models = Models.parse(served, canaries, seconds, self._model_keep_s, self._lease_s)
        return Look(living_workers(listed, seconds, self._lease_s), open_jobs, models=models)

    async def require_worker(self, model: str | None = None) -> Sequence[WorkerInfo]:
        """Return the ready workers that take jobs of a model, or those that name none.

        Raises NoWorker if there is none, QueueUnavailable.
        """
        workers = [worker for worker in await self.workers() if takes(worker, model)]
        if not workers:
            of = f" of model {model}" if model else ""
            then = "send the request again later, or to lane bulk, which waits for one"
            raise NoWorker(f"no worker{of} is ready; {then}")
        return workers

    async def named_model(self, name: str | None) -> str | None:
        """Return the model whose workers get a request that names this one; None for whichever worker takes it.

        Raises NotFound, and QueueUnavailable if Redis has never answered.
        """
        if name is None:
            return None
        models = (await self.look()).models
        if models is None or (models.are_declared and name not in models.served):
            # a worker may have just started
            look = await self.look(_FRESHER_S)
            if (models := look.models) is None:
                raise QueueUnavailable(look.problem)
        try:
            return models.named(name)
        except ModelNotFound as error:
            raise NotFound(str(error), param="model", code=error.code()) from None

    async def models(self) -> list[str]:
        """Return the names that requests may ask for: those given to workers, and what ready workers have loaded.

        Raises QueueUnavailable.
        """
        names: set[object] = set()
        for worker in await self.workers():
            own = worker.about.get("models")
            # workers of earlier releases say only what they have loaded
            names.update(own if isinstance(own, list) else [worker.about.get("model")])
        if (models := (await self.look()).models) is not None:
            names.update(name for name, served in models.served.items() if served.declared)
        return sorted(name for name in names if isinstance(name, str))

    async def workers(self) -> Sequence[WorkerInfo]:
        """Return the ready workers. Raises QueueUnavailable."""
        look = await self.look()
        if look.problem:
            raise QueueUnavailable(look.problem)
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


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
