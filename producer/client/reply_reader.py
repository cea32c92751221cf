"""Lets all threads of a client wait on one reply list: a single thread reads it and distributes the outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from redis.exceptions import ResponseError

from producer.client.cursor import Cursor
from producer.client.job_queue import JobQueue
from producer.client.outage import Outage, Unreachable
from producer.client.states import parse_replies
from producer.client.waiters import LOOK, OVERDUE_S, Waiter, Waiters, closed
from vqa.forks import restart_in_children
from vqa.redis.connection import connect
from vqa.redis.error_replies import is_wrong_type

#: seconds that `close` waits for the reading thread
_JOIN_S = 1.0


class ReplyReader:
    """The waiters of one client's threads. A background thread reads Redis while there are any.

    So a wait ends on time even while Redis is unresponsive.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Begin without waiters; a forked child calls it again, because it has none of the threads that wait."""
        # no retries in the connection: `outage` decides about them, by each caller's timeout
        settings = self._queue.settings
        self._redis = connect(settings, retry_s=0)
        overdue_s = min(settings.redis_timeout_s, OVERDUE_S)
        self._blocking = connect(settings.model_copy(update={"redis_timeout_s": overdue_s}), retry_s=0)
        self._waiters = Waiters()
        self.outage = Outage(settings)
        #: guards all fields but the queue and the connections
        self._lock = threading.Lock()
        self._wakeups: dict[Waiter, threading.Condition] = {}
        self._reader: threading.Thread | None = None

    def close(self) -> None:
        """End every wait with RuntimeError and close the connection. `queue.closing` must be set already."""
        with self._lock:
            self._waiters.fail(closed())
            for wakeup in self._wakeups.values():
                wakeup.notify()
            reader = self._reader
        self._redis.close()
        self._blocking.close()
        if reader is not None:
            reader.join(_JOIN_S)

    @contextmanager
    def waiting(self, ids: Iterable[str] = (), cursor: Cursor | None = None) -> Iterator[Waiter]:
        """Register a waiter for these jobs, and for the text of the cursor's."""
        wakeup = threading.Condition(self._lock)
        # always called with the lock held
        waiter = Waiter(wakeup.notify, cursor)
        with self._lock:
            self._wakeups[waiter] = wakeup
            self._waiters.add(waiter, ids)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.remove(waiter)
                # not there if the process has forked meanwhile
                if self._wakeups.pop(waiter, None) is not None:
                    # another thread may still wait
                    wakeup.notify()
                if not self._wakeups:
                    self.outage.forget()

    def add(self, waiter: Waiter, ids: Sequence[str]) -> None:
        """Register more jobs, and look up those that have ended already."""
        with self._lock:
            self._waiters.add(waiter, ids)
        self.look(ids)

    def look(self, ids: Sequence[str]) -> None:
        """Look up and distribute these jobs' outcomes; if Redis is unreachable, the background thread does it later."""
        with suppress(Unreachable):
            self._look(ids)

    def _look(self, ids: Sequence[str]) -> None:
        with self._lock:
            cursors = self._waiters.cursors(ids)
        with self.outage.exchange():
            look = self._queue.look(ids, self._redis, cursors)
        with self._lock:
            self._waiters.deliver(look.found, look.entries)

    def wait_until(self, waiter: Waiter, until: float) -> None:
        """Return when something has arrived for the waiter, or at the monotonic time `until`."""
        with self._lock:
            if waiter not in self._wakeups:
                raise RuntimeError("the process forked during this call; ask for the answers again in the child")
            if self._waiters and self._reader is None:
                self._reader = threading.Thread(target=self._read, name="vqa-reply-reader", daemon=True)
                self._reader.start()
            self._wakeups[waiter].wait_for(
                lambda: waiter.notified or waiter not in self._wakeups or self._queue.closing.is_set(),
                max(0.0, until - time.monotonic()),
            )
        if waiter.failure:
            raise waiter.failure
        if self._queue.closing.is_set():
            raise closed()

    def _read(self) -> None:
        while self._continues():
            try:
                with self.outage.exchange():
                    ids = self._next_ids()
                if ids:
                    self._look(ids)
                self._queue.closing.wait(self._waiters.pause_s(len(ids)))
            except Unreachable as unreachable:
                self._queue.closing.wait(unreachable.pause_s)
            except Exception as error:
                # the waiters raise it; the next wait starts another thread
                with self._lock:
                    self._waiters.fail(closed() if self._queue.closing.is_set() else error)
                    self._reader = None
                return

    def _continues(self) -> bool:
        with self._lock:
            if self._waiters and not self._queue.closing.is_set():
                return True
            self._reader = None
            return False

    def _next_ids(self) -> list[str]:
        replies = self._queue.reply_list
        try:
            block_s = self._waiters.block_s(self._queue.settings)
            reply = self._blocking.blmpop(block_s, 1, replies, direction="LEFT", count=LOOK)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            # another program's key; ids that were on it are found by polling
            self._blocking.delete(replies)
            reply = None
        with self._lock:
            return self._waiters.ids_to_look_up(parse_replies(reply))
