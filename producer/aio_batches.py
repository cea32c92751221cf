"""`producer.client.batches` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from producer.client.batches import Batch, Result
from producer.client.job_queue import Link
from vqa.ledger.batches import BatchState
from vqa.results import Outcome

#: how often a wait for the whole batch looks
_LOOK_S = 1.0

Answers = Callable[[Iterable[str], float | None], AsyncIterator[tuple[str, Outcome]]]
#: runs a short exchange in a thread
Threaded = Callable[..., Awaitable[Any]]


class AsyncBatch:
    """`Batch` with `await`, method by method; see there."""

    def __init__(self, id: str, link: Link, answers: Answers, threaded: Threaded) -> None:
        self.id = id
        self._answers = answers
        self._threaded = threaded
        # its waits are not used: what is left is short exchanges
        self._batch = Batch(id, link, lambda ids, timeout_s: iter(()))

    async def state(self) -> BatchState:
        """See `Batch.state`."""
        state: BatchState = await self._threaded(self._batch.state)
        return state

    async def results(self, timeout_s: float | None = None) -> AsyncIterator[Result]:
        """See `Batch.results`."""
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        first = 0
        while True:
            rows, whole = await self._threaded(self._batch.page, first)
            if not rows and (whole or (end is not None and loop.time() > end)):
                return
            if not rows:
                await asyncio.sleep(_LOOK_S)
                continue
            first += len(rows)
            names = dict(rows)
            left = None if end is None else max(0.0, end - loop.time())
            async for id, outcome in self._answers(names, left):
                yield Result(names[id], id, outcome)

    async def records(self, timeout_s: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """See `Batch.records`."""
        async for result in self.results(timeout_s):
            yield result.record()

    async def wait(self, timeout_s: float | None = None) -> BatchState:
        """See `Batch.wait`."""
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        while not (state := await self.state()).is_over and (end is None or loop.time() < end):
            await asyncio.sleep(_LOOK_S)
        return state

    async def cancel(self) -> int:
        """See `Batch.cancel`."""
        ended: int = await self._threaded(self._batch.cancel)
        return ended
