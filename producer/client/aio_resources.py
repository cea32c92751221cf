"""`client.batches`, `client.dead_letters` and `client.images` of the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from producer.client.batch_submission import RowLike
from producer.client.batches import POLL_S, Batch, Result
from producer.client.dead_letters import DeadLetter, TimeOrAge, Verdict
from producer.client.job_queue import JobQueue
from producer.client.resources import (
    STORED_TTL_S,
    BatchesResource,
    DeadLettersResource,
    DeprecatedCall,
    ImagesResource,
)
from producer.client.threads import Threads
from producer.images.stored import StoredImage
from producer.prediction import Prediction
from vqa.jobs.fields import ImageSource
from vqa.jobs.lane import Lane
from vqa.ledger.batch_state import BatchState
from vqa.results import Outcome

Answers = Callable[[Iterable[str], float | None], AsyncIterator[tuple[str, Outcome]]]


class AsyncBatch:
    """`Batch` with `await`; its methods are documented there."""

    def __init__(self, batch: Batch, answers: Answers, threads: Threads) -> None:
        self.id = batch.id
        self._batch = batch
        self._answers = answers
        self._threads = threads

    async def state(self) -> BatchState:
        return await self._threads.short(self._batch.state)

    async def prediction(self, state: BatchState | None = None) -> Prediction | None:
        return await self._threads.short(self._batch.prediction, state)

    async def results(self, timeout_s: float | None = None) -> AsyncIterator[Result]:
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        first = 0
        while True:
            rows, complete = await self._threads.short(self._batch.page, first)
            if not rows and (complete or (end is not None and loop.time() > end)):
                return
            if not rows:
                await asyncio.sleep(POLL_S)
                continue
            first += len(rows)
            names = dict(rows)
            left = None if end is None else max(0.0, end - loop.time())
            async for id, outcome in self._answers(names, left):
                yield Result(names[id], id, outcome)

    async def records(self, timeout_s: float | None = None) -> AsyncIterator[dict[str, Any]]:
        async for result in self.results(timeout_s):
            yield result.record()

    async def wait(self, timeout_s: float | None = None) -> BatchState:
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        while not (state := await self.state()).is_over and (end is None or loop.time() < end):
            await asyncio.sleep(POLL_S)
        return state

    async def cancel(self) -> int:
        return await self._threads.long(self._batch.cancel)


class AsyncBatchesResource(DeprecatedCall):
    """`BatchesResource` with `await`; its methods are documented there."""

    _name = "batches"

    def __init__(self, queue: JobQueue, answers: Answers, threads: Threads) -> None:
        # the synchronous batches are never used to wait for answers
        self._batches = BatchesResource(queue, lambda ids, timeout_s: iter(()))
        self._answers = answers
        self._threads = threads

    async def create(
        self,
        rows: Iterable[RowLike],
        *,
        lane: Lane = "bulk",
        tenant: str | None = None,
        input: str = "",
        within_s: float | None = None,
        **defaults: Any,
    ) -> AsyncBatch:
        """Do as `BatchesResource.create`, in a thread of its own."""
        fields = {"lane": lane, "tenant": tenant, "input": input, "within_s": within_s, **defaults}
        return self.retrieve((await self._threads.long(self._batches.create, rows, **fields)).id)

    def retrieve(self, id: str) -> AsyncBatch:
        """Return a handle to any client's batch; no I/O, and so no `await`."""
        return AsyncBatch(self._batches.retrieve(id), self._answers, self._threads)

    async def cancel(self, id: str) -> int:
        return await self._threads.long(self._batches.cancel, id)

    async def list(self, limit: int = 100) -> list[BatchState]:
        return await self._threads.short(self._batches.list, limit)

    async def predict(self, states: Sequence[BatchState]) -> dict[str, Prediction]:
        return await self._threads.short(self._batches.predict, states)


class AsyncDeadLettersResource(DeprecatedCall):
    """`DeadLettersResource` with `await`; its methods are documented there."""

    _name = "dead_letters"

    def __init__(self, queue: JobQueue, threads: Threads) -> None:
        self._dead_letters = DeadLettersResource(queue)
        self._threads = threads

    async def get(self, id: str) -> DeadLetter | None:
        return await self._threads.short(self._dead_letters.get, id)

    async def count(self) -> int:
        return await self._threads.short(self._dead_letters.count)

    async def retry(self, ids: Iterable[str]) -> dict[str, Verdict]:
        return await self._threads.long(self._dead_letters.retry, ids)

    async def purge(self, ids: Iterable[str]) -> int:
        return await self._threads.long(self._dead_letters.purge, ids)

    async def list(
        self,
        reason: str | None = None,
        since: TimeOrAge | None = None,
        before: TimeOrAge | None = None,
        limit: int | None = 100,
    ) -> list[DeadLetter]:
        return await self._threads.long(self._dead_letters.list, reason, since, before, limit)


class AsyncImagesResource:
    """`ImagesResource` with `await`; its methods are documented there."""

    def __init__(self, queue: JobQueue, threads: Threads) -> None:
        self._images = ImagesResource(queue)
        self._threads = threads

    async def upload(self, image: ImageSource, *, ttl_s: int = STORED_TTL_S, tenant: str | None = None) -> StoredImage:
        return await self._threads.image(self._images.upload, image, ttl_s=ttl_s, tenant=tenant)

    async def check(self, image: ImageSource) -> None:
        await self._threads.image(self._images.check, image)

    async def retrieve(self, id: str) -> StoredImage:
        return await self._threads.short(self._images.retrieve, id)

    async def delete(self, id: str) -> bool:
        return await self._threads.short(self._images.delete, id)

    async def references(self, ids: Iterable[str]) -> dict[str, str]:
        return await self._threads.short(self._images.references, list(ids))
