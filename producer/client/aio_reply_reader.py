"""`producer.client.reply_reader` for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from redis.exceptions import ResponseError

from producer.client.cursor import Cursor
from producer.client.job_queue import JobQueue
from producer.client.outage import Outage, Unreachable
from producer.client.states import Look, parse_look, parse_replies, queue_look, unknown
from producer.client.threads import Threads
from producer.client.waiters import LOOK, OVERDUE_S, Waiter, Waiters, closed
from vqa.forks import restart_in_children
from vqa.redis.connection import connect_async
from vqa.redis.error_replies import is_wrong_type

#: concurrent lookups of one event loop, each on its own connection
_LOOKS = 4

#: seconds that `close` waits for connections to end
_CLOSE_S = 1.0


class AsyncReplyReader:
    """The waiters of one event loop's tasks. A background task reads Redis while there are any."""

    def __init__(self, queue: JobQueue, threads: Threads) -> None:
        self._queue = queue
        self._threads = threads
        self._inherited: list[object] = []
        self._begin()
        restart_in_children(self)

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis = connect_async(self._queue.settings, retry_s=0)
        self._waiters = Waiters()
        self.outage = Outage(self._queue.settings)
        self._wakeups: dict[Waiter, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(_LOOKS)
        self._closed = asyncio.Event()

    def start(self) -> None:
        """Begin afresh in a forked child."""
        # never collected: they would unregister themselves from the loop's selector, which the parent shares
        self._inherited += [self._redis, self._reader]
        self._begin()

    def _enter_loop(self) -> None:
        """Belong to the running event loop. Raises RuntimeError if the client is closed, or waits in another loop."""
        if self._queue.closing.is_set():
            raise closed()
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            if not self._loop.is_closed():
                raise RuntimeError(
                    "this AsyncClient waits in another event loop; "
                    "make one in each loop: `async with AsyncClient() as client:`"
                )
            self._begin()
        self._loop = loop

    async def close(self) -> None:
        """End every wait with RuntimeError and close the connections. `queue.closing` must be set already."""
        if self._loop is not asyncio.get_running_loop():
            # no wait has begun here, and connections end with their loop
            return
        self._closed.set()
        self._waiters.fail(closed())
        for wakeup in self._wakeups.values():
            wakeup.set()
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader], timeout=_CLOSE_S)
        await self._disconnect()

    async def _disconnect(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._redis.aclose(), _CLOSE_S)

    @contextmanager
    def waiting(self, ids: Iterable[str] = (), cursor: Cursor | None = None) -> Iterator[Waiter]:
        self._enter_loop()
        wakeup = asyncio.Event()
        waiter = Waiter(wakeup.set, cursor)
        self._wakeups[waiter] = wakeup
        self._waiters.add(waiter, ids)
        try:
            yield waiter
        finally:
            # not there in a child that was forked meanwhile
            self._wakeups.pop(waiter, None)
            self._waiters.remove(waiter)
            # another task may still wait
            wakeup.set()
            if not self._wakeups:
                self.outage.forget()

    @contextmanager
    def submitting(self, id: str) -> Iterator[None]:
        """Let the waiter of a job begin before the job's submission, which is the block.

        If the job is new, its end is announced to the waiter, so that a look after the submission is superfluous.
        """
        self._waiters.submitting.add(id)
        try:
            yield
        finally:
            self._waiters.submitting.discard(id)

    async def add(self, waiter: Waiter, ids: Sequence[str]) -> None:
        self._waiters.add(waiter, ids)
        await self.look(ids)

    async def look(self, ids: Sequence[str]) -> None:
        """Look up and distribute these jobs' outcomes. Raises RuntimeError if the client is closed meanwhile."""
        try:
            with suppress(Unreachable), _cancellable():
                await self._look(ids)
        except Exception:
            if self._closed.is_set():
                # redis-py raises an AttributeError where a connection is closed while it is made
                raise closed() from None
            raise
        finally:
            if self._closed.is_set():
                # also one that was made since `close`
                await self._disconnect()

    async def _look(self, ids: Sequence[str]) -> None:
        async with self._looks:
            with self.outage.exchange():
                look = await self._query(ids, self._waiters.cursors(ids))
                again = await self._query(look.unknown) if look.unknown else look
                found = look.found | again.found | {id: unknown(id) for id in again.unknown}
                if overdue := {*look.overdue, *again.overdue}:
                    found |= await self._threads.short(self._queue.close_overdue, overdue)
        self._waiters.deliver(found, look.entries)

    async def _query(self, ids: Sequence[str], cursors: Sequence[Cursor] = ()) -> Look:
        async with self._redis.pipeline(transaction=False) as pipe:
            queue_look(pipe, ids, cursors)
            return parse_look(ids, await pipe.execute(raise_on_error=False), cursors)

    async def wait_until(self, waiter: Waiter, until: float) -> None:
        if self._reader is None and self._waiters and not waiter.failure and not self._closed.is_set():
            self._reader = asyncio.create_task(self._read())
        wakeup = self._wakeups[waiter]
        with suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await wakeup.wait()
        wakeup.clear()
        if waiter.failure:
            raise waiter.failure
        if self._closed.is_set():
            raise closed()

    async def pause(self, seconds: float) -> None:
        """Sleep. Raises RuntimeError if the client is closed meanwhile."""
        self._enter_loop()
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
            self._waiters.fail(closed() if self._closed.is_set() else error)
        finally:
            self._reader = None

    async def _pop(self, block_s: float) -> Any:
        replies = self._queue.reply_list
        try:
            return await self._redis.blmpop(block_s, 1, replies, direction="LEFT", count=LOOK)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            # another program's key; ids that were on it are found by polling
            await self._redis.delete(replies)
            return None

    async def _read_once(self) -> None:
        with self.outage.exchange():
            block_s = self._waiters.block_s(self._queue.settings)
            # wait_for ends with the task even if redis-py loses the cancellation
            reply = await asyncio.wait_for(self._pop(block_s), min(self._queue.settings.redis_timeout_s, OVERDUE_S))
            ids = self._waiters.ids_to_look_up(parse_replies(reply))
        if ids:
            await self._look(ids)
        await asyncio.sleep(self._waiters.pause_s(len(ids)))


@contextmanager
def _cancellable() -> Iterator[None]:
    """Raise the CancelledError that the block has swallowed.

    Up to Python 3.11, `asyncio.wait_for`, which redis-py uses, loses a cancellation that comes together with a result.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
