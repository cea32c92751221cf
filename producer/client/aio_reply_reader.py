"""`producer.client.reply_reader` for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress

from producer.client.job_queue import Link
from producer.client.outage import Away, Outage
from producer.client.states import Look, parse_look, parse_replies, queue_look, unknown
from producer.client.waiters import LOOK, Wait, Waits, closed
from vqa.connection import connect_async

#: looks of one event loop at once, each on a connection of its own
_LOOKS = 4


class AsyncMailbox:
    """The waits of one event loop's tasks; the reader is a task that lasts as long as anybody waits."""

    def __init__(self, link: Link, threads: Executor) -> None:
        self._link = link
        self._threads = threads
        self._redis = connect_async(link.settings, patience=0)
        self._waits = Waits()
        self.outage = Outage(link.settings)
        self._stirred: dict[Wait, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(_LOOKS)
        self._closed = asyncio.Event()

    async def close(self) -> None:
        """See `Mailbox.close`."""
        self._closed.set()
        self._waits.fail(closed())
        for stirred in self._stirred.values():
            stirred.set()
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._redis.aclose()

    @contextmanager
    def waiting(self, ids: Iterable[str] = ()) -> Iterator[Wait]:
        """See `Mailbox.waiting`."""
        stirred = asyncio.Event()
        wait = Wait(stirred.set)
        self._stirred[wait] = stirred
        self._waits.add(wait, ids)
        try:
            yield wait
        finally:
            del self._stirred[wait]
            self._waits.remove(wait)
            if not self._stirred:
                self.outage.forget()

    async def add(self, wait: Wait, ids: Sequence[str]) -> None:
        """See `Mailbox.add`."""
        self._waits.add(wait, ids)
        await self.look(ids)

    async def look(self, ids: Sequence[str]) -> None:
        """See `Mailbox.look`."""
        with suppress(Away):
            await self._look(ids)

    async def _look(self, ids: Sequence[str]) -> None:
        async with self._looks:
            with self.outage.exchange():
                look = await self._ask(ids)
                again = await self._ask(look.unknown) if look.unknown else look
                found = look.found | again.found | {id: unknown(id) for id in again.unknown}
                if overdue := {*look.overdue, *again.overdue}:
                    loop = asyncio.get_running_loop()
                    found |= await loop.run_in_executor(self._threads, self._link.close_overdue, overdue)
        self._waits.deliver(found)

    async def _ask(self, ids: Sequence[str]) -> Look:
        async with self._redis.pipeline(transaction=False) as pipe:
            queue_look(pipe, ids)
            return parse_look(ids, await pipe.execute())

    async def turn(self, wait: Wait, until: float) -> None:
        """See `Mailbox.turn`."""
        if self._reader is None and self._waits and not wait.failure and not self._closed.is_set():
            self._reader = asyncio.create_task(self._read())
        stirred = self._stirred[wait]
        with suppress(TimeoutError):
            await asyncio.wait_for(stirred.wait(), until - time.monotonic())
        stirred.clear()
        if wait.failure:
            raise wait.failure
        if self._closed.is_set():
            raise closed()

    async def pause(self, seconds: float) -> None:
        """Sleep. Raises RuntimeError when the client is closed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
            raise closed()

    async def _read(self) -> None:
        try:
            while self._waits:
                try:
                    await self._read_once()
                except Away as away:
                    await asyncio.sleep(away.pause_s)
        except Exception as error:
            # whoever waits raises it; the next wait starts another reader
            self._waits.fail(error)
        finally:
            self._reader = None

    async def _read_once(self) -> None:
        with self.outage.exchange():
            block_s = self._waits.block_s(self._link.settings)
            reply = await self._redis.blmpop(block_s, 1, self._link.reply_list, direction="LEFT", count=LOOK)
            ids = self._waits.next_looked_at(parse_replies(reply))
        if ids:
            await self._look(ids)
        await asyncio.sleep(self._waits.pause_s(len(ids)))
