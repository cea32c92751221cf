"""The same client for asyncio. Waiting is asynchronous; short exchanges run in a few threads, as kombu has no asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from producer.core import answer_of, chunks, outcome_of, parse_look, parse_replies, queue_look, reaching, still_open
from producer.link import Link
from producer.states import JobState
from producer.waits import LOOK, POLL_S, SHORTEST_BLOCK_S, Wait, Waits
from vqa.answer import Answer
from vqa.connection import connect_async
from vqa.errors import QueueUnavailable
from vqa.job import ImageSource, Job, Lane
from vqa.ledger import State, WorkerInfo
from vqa.outcome import Outcome
from vqa.settings import QueueSettings

T = TypeVar("T")

#: short exchanges with Redis that run at once
_THREADS = 4


class AsyncClient:
    """`Client` for asyncio, method by method; see there. One belongs to one event loop, and its tasks share it.

        async with AsyncClient() as client:
            print((await client.ask("cat.jpg", "What is on the mat?")).text)
    """

    def __init__(self, settings: QueueSettings | None = None, **overrides: Any) -> None:
        given = settings.model_dump() if settings else {}
        self._link = Link(QueueSettings(**(given | overrides)))
        self._redis = connect_async(self._link.settings)
        self._threads = ThreadPoolExecutor(_THREADS, "vqa-producer")
        self._waits = Waits()
        self._reader: asyncio.Task[None] | None = None
        self._next_poll = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        try:
            await self._threaded(self._link.close)
        finally:
            await self._redis.aclose()
            self._threads.shutdown(wait=False)

    @property
    def settings(self) -> QueueSettings:
        """What this client goes by."""
        return self._link.settings

    async def ask(self, image: ImageSource, question: str, **fields: Any) -> Answer:
        """See `Client.ask`."""
        job = await self._threaded(lambda: Job.about(image, question, **fields))
        return await self.answer(await self.submit(job))

    async def submit(self, job: Job) -> str:
        """See `Client.submit`."""
        await self._threaded(lambda: self._link.submit([job]))
        return job.id

    async def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """See `Client.submit_many`."""
        return await self._threaded(lambda: self._link.submit_many(jobs))

    async def answer(self, id: str, timeout_s: float | None = None) -> Answer:
        """See `Client.answer`."""
        async with aclosing(self.answers([id], timeout_s)) as outcomes:
            [(_, outcome)] = [pair async for pair in outcomes]
        return answer_of(outcome)

    async def answers(self, ids: Iterable[str], timeout_s: float | None = None) -> AsyncIterator[tuple[str, Outcome]]:
        """See `Client.answers`."""
        ...
