"""How all that wait for answers share one reply list: one of them reads, and hands out what it finds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from producer.client.job_queue import Link
from producer.client.outage import Away, Outage
from producer.client.states import parse_replies
from producer.client.waiters import LOOK, Wait, Waits, closed
from vqa.connection import connect

#: for a reader that is told to end
_END_S = 1.0


class Mailbox:
    """The waits of one client's threads. A thread of its own reads for as long as anybody waits.

    So a wait ends when its caller's time is over, however long Redis is silent.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        # tried again here, by whoever waits for how long
        self._redis = connect(link.settings, patience=0)
        self._waits = Waits()
        self.outage = Outage(link.settings)
        #: guards everything here but the link and the connections
        self._lock = threading.Lock()
        self._stirred: dict[Wait, threading.Condition] = {}
        self._reader: threading.Thread | None = None
        self._closed = link.closing

    def close(self) -> None:
        """End every wait with RuntimeError, and give the connections back; the link is closing already."""
        with self._lock:
            self._waits.fail(closed())
            for stirred in self._stirred.values():
                stirred.notify()
            reader = self._reader
        self._redis.close()
        if reader is not None:
            reader.join(_END_S)

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
                if not self._stirred:
                    self.outage.forget()

    def add(self, wait: Wait, ids: Sequence[str]) -> None:
        """Hear of these jobs, too; what ended already is read at once."""
        with self._lock:
            self._waits.add(wait, ids)
        self.look(ids)

    def look(self, ids: Sequence[str]) -> None:
        """Read what has become of these jobs and hand it out; the reader does where Redis is away now."""
        with suppress(Away):
            self._look(ids)

    def _look(self, ids: Sequence[str]) -> None:
        with self.outage.exchange():
            found = self._link.look(ids, self._redis)
        with self._lock:
            self._waits.deliver(found)

    def turn(self, wait: Wait, until: float) -> None:
        """Come back when something has arrived for `wait`, or at `until` (monotonic)."""
        with self._lock:
            # a fork has no threads but the one that forked
            if self._waits and not (self._reader and self._reader.is_alive()):
                self._reader = threading.Thread(target=self._read, name="vqa-mailbox", daemon=True)
                self._reader.start()
            self._stirred[wait].wait_for(
                lambda: wait.stirred or self._closed.is_set(), max(0.0, until - time.monotonic())
            )
        if wait.failure:
            raise wait.failure
        if self._closed.is_set():
            raise closed()

    def _read(self) -> None:
        while self._goes_on():
            try:
                with self.outage.exchange():
                    ids = self._announced()
                if ids:
                    self._look(ids)
                self._closed.wait(self._waits.pause_s(len(ids)))
            except Away as away:
                self._closed.wait(away.pause_s)
            except Exception as error:
                # whoever waits raises it; the next wait starts another reader
                with self._lock:
                    self._waits.fail(closed() if self._closed.is_set() else error)
                    self._reader = None
                return

    def _goes_on(self) -> bool:
        with self._lock:
            if self._waits and not self._closed.is_set():
                return True
            self._reader = None
            return False

    def _announced(self) -> list[str]:
        reply = self._redis.blmpop(
            self._waits.block_s(self._link.settings), 1, self._link.reply_list, direction="LEFT", count=LOOK
        )
        with self._lock:
            return self._waits.next_looked_at(parse_replies(reply))
