"""How all that wait for answers share one reply list: one of them at a time reads, and hands out what it finds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress

from producer.core import parse_look, parse_replies, queue_look, reaching
from producer.link import Link
from producer.waits import LOOK, Wait, Waits
from vqa.connection import connect_async

#: looks of one event loop at once, each on a connection of its own
_LOOKS = 4


class Mailbox:
    """The waits of one client's threads. There is no thread of its own: whoever waits takes its turn at reading."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waits = Waits()
        #: guards everything here but the link
        self._lock = threading.Lock()
        self._stirred: dict[Wait, threading.Condition] = {}
        self._asleep: set[Wait] = set()
        self._reading = False

    @contextmanager
    def waiting(self, ids: Iterable[str] = ()) -> Iterator[Wait]:
        """Hear of these jobs from now on."""
        stirred = threading.Condition(self._lock)
        # called where the lock is held
        wait = Wait(stirred.notify)
        with self._lock:
            self._stirred[wait] = stirred
            self._waits.add(wait, ids)
        try:
            yield wait
        finally:
            with self._lock:
                del self._stirred[wait]
                self._waits.remove(wait)

    def add(self, wait: Wait, ids: Sequence[str]) -> None:
        """Hear of these jobs, too; what ended already is read at once."""
        with self._lock:
            self._waits.add(wait, ids)
        self.look(ids)

    def look(self, ids: Sequence[str]) -> None:
        """Read what has become of these jobs and hand it out."""
        found = self._link.look(ids)
        with self._lock:
            self._waits.deliver(found)

    def turn(self, wait: Wait, until: float) -> None:
        """Come back when something has arrived for `wait`, after reading once, or at `until` (monotonic)."""
        if not self._sleeps(wait, until):
            return
        try:
            self._read(until)
        finally:
            with self._lock:
                self._reading = False
                self._wake_a_reader()

    def _sleeps(self, wait: Wait, until: float) -> bool:
        """Sleep while another thread reads; True when it is this thread's turn."""
        with self._lock:
            while not wait.stirred and (left_s := until - time.monotonic()) > 0:
                if not self._reading:
                    self._reading = True
                    return True
                self._asleep.add(wait)
                self._stirred[wait].wait(left_s)
                self._asleep.discard(wait)
            # it may have been woken to read, and does not need to any more
            self._wake_a_reader()
            return False

    def _wake_a_reader(self) -> None:
        if not self._reading:
            for wait in self._asleep:
                if not wait.stirred:
                    self._stirred[wait].notify()
                    return

    def _read(self, until: float) -> None:
        block_s = self._waits.block_s(self._link.settings, until)
        with reaching(self._link.settings):
            reply = self._link.redis.blmpop(block_s, 1, self._link.reply_list, direction="LEFT", count=LOOK)
        with self._lock:
            ids = self._waits.next_looked_at(parse_replies(reply))
        if ids:
            self.look(ids)


class AsyncMailbox:
    """The same for the tasks of one event loop; the reader is a task that lasts as long as anybody waits."""

    def __init__(self, link: Link, threads: Executor) -> None:
        self._link = link
        self._threads = threads
        self._redis = connect_async(link.settings)
        self._waits = Waits()
        self._stirred: dict[Wait, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(_LOOKS)

    async def close(self) -> None:
        """Stop reading and give the connections back."""
        self._waits.fail(RuntimeError("the client was closed while this waited"))
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

    async def add(self, wait: Wait, ids: Sequence[str]) -> None:
        """See `Mailbox.add`."""
        self._waits.add(wait, ids)
        await self.look(ids)

    async def look(self, ids: Sequence[str]) -> None:
        """See `Mailbox.look`."""
        async with self._looks:
            with reaching(self._link.settings):
                async with self._redis.pipeline() as pipe:
                    queue_look(pipe, ids)
                    found, overdue = parse_look(ids, await pipe.execute())
            if overdue:
                loop = asyncio.get_running_loop()
                found |= await loop.run_in_executor(self._threads, self._link.close_overdue, overdue)
        self._waits.deliver(found)

    async def turn(self, wait: Wait, until: float) -> None:
        """See `Mailbox.turn`."""
        if self._reader is None and not wait.failure:
            self._reader = asyncio.create_task(self._read())
        stirred = self._stirred[wait]
        with suppress(TimeoutError):
            await asyncio.wait_for(stirred.wait(), until - time.monotonic())
        stirred.clear()
        if wait.failure:
            raise wait.failure

    async def _read(self) -> None:
        try:
            while self._waits:
                block_s = self._waits.block_s(self._link.settings)
                with reaching(self._link.settings):
                    reply = await self._redis.blmpop(block_s, 1, self._link.reply_list, direction="LEFT", count=LOOK)
                if ids := self._waits.next_looked_at(parse_replies(reply)):
                    await self.look(ids)
        except Exception as error:
            # whoever waits raises it; the next wait starts another reader
            self._waits.fail(error)
        finally:
            self._reader = None
