"""`producer.client.reply_reader` for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress

from producer.client.job_queue import JobQueue
from producer.client.outage import Outage, Unreachable
from producer.client.states import Look, parse_look, parse_replies, queue_look, unknown
from producer.client.waiters import LOOK, Waiter, Waiters, closed
from vqa.connection import connect_async

#: concurrent lookups of one event loop, each on its own connection
_LOOKS = 4


class AsyncReplyReader:
    """The waiters of one event loop's tasks. A background task reads Redis while there are any."""

    def __init__(self, queue: JobQueue, threads: Executor) -> None:
        self._queue = queue
        self._threads = threads
        self._redis = connect_async(queue.settings, retry_s=0)
        self._waiters = Waiters()
        self.outage = Outage(queue.settings)
        self._wakeups: dict[Waiter, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(_LOOKS)
        self._closed = asyncio.Event()

    async def close(self) -> None:
        self._closed.set()
        self._waiters.fail(closed())
        for wakeup in self._wakeups.values():
            wakeup.set()
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._redis.aclose()

    @contextmanager
    def waiting(self, ids: Iterable[str] = ()) -> Iterator[Waiter]:
        wakeup = asyncio.Event()
        waiter = Waiter(wakeup.set)
        self._wakeups[waiter] = wakeup
        self._waiters.add(waiter, ids)
        try:
            yield waiter
        finally:
            del self._wakeups[waiter]
            self._waiters.remove(waiter)
            if not self._wakeups:
                self.outage.forget()

    async def add(self, waiter: Waiter, ids: Sequence[str]) -> None:
        self._waiters.add(waiter, ids)
        await self.look(ids)

    async def look(self, ids: Sequence[str]) -> None:
        with suppress(Unreachable):
            await self._look(ids)

    async def _look(self, ids: Sequence[str]) -> None:
        async with self._looks:
            with self.outage.exchange():
                look = await self._query(ids)
                again = await self._query(look.unknown) if look.unknown else look
                found = look.found | again.found | {id: unknown(id) for id in again.unknown}
                if overdue := {*look.overdue, *again.overdue}:
                    loop = asyncio.get_running_loop()
                    found |= await loop.run_in_executor(self._threads, self._queue.close_overdue, overdue)
        self._waiters.deliver(found)

    async def _query(self, ids: Sequence[str]) -> Look:
        async with self._redis.pipeline(transaction=False) as pipe:
            queue_look(pipe, ids)
            return parse_look(ids, await pipe.execute())

    async def wait_until(self, waiter: Waiter, until: float) -> None:
        if self._reader is None and self._waiters and not waiter.failure and not self._closed.is_set():
            self._reader = asyncio.create_task(self._read())
        wakeup = self._wakeups[waiter]
        with suppress(TimeoutError):
            await asyncio.wait_for(wakeup.wait(), until - time.monotonic())
        wakeup.clear()
        if waiter.failure:
            raise waiter.failure
        if self._closed.is_set():
            raise closed()

    async def pause(self, seconds: float) -> None:
        """Sleep. Raises RuntimeError if the client is closed meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
            raise closed()

    async def _read(self) -> None:
        try:
            while self._waiters:
                try:
                    await self._read_once()
                except Unreachable as unreachable:
                    await asyncio.sleep(unreachable.pause_s)
        except Exception as error:
            # the waiters raise it; the next wait starts another task
            self._waiters.fail(error)
        finally:
            self._reader = None

    async def _read_once(self) -> None:
        with self.outage.exchange():
            block_s = self._waiters.block_s(self._queue.settings)
            reply = await self._redis.blmpop(block_s, 1, self._queue.reply_list, direction="LEFT", count=LOOK)
            ids = self._waiters.ids_to_look_up(parse_replies(reply))
        if ids:
            await self._look(ids)
        await asyncio.sleep(self._waiters.pause_s(len(ids)))
