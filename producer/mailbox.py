"""How threads that wait for answers share one reply list: one of them at a time reads, and hands out what it finds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from producer.core import parse_replies, reaching
from producer.link import Link
from producer.waits import LOOK, POLL_S, SHORTEST_BLOCK_S, Wait, Waits


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
        self._next_poll = 0.0

    @contextmanager
    def waiting(self, ids: Iterable[str]) -> Iterator[Wait]:
        """Hear of these jobs from now on."""
        stirred = threading.Condition(self._lock)
        # called where the lock is held
        wait = Wait(ids, stirred.notify)
        with self._lock:
            self._stirred[wait] = stirred
            self._waits.add(wait)
        try:
            yield wait
        finally:
            self.forget(wait)

    def forget(self, wait: Wait) -> None:
        """Nothing arrives for `wait` after this."""
        with self._lock:
            self._stirred.pop(wait, None)
            self._waits.remove(wait)

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
        settings, now = self._link.settings, time.monotonic()
        block_s = max(SHORTEST_BLOCK_S, min(until - now, self._next_poll - now, settings.redis_timeout_s / 2))
        with reaching(settings):
            reply = self._link.redis.blmpop(block_s, 1, self._link.reply_list, direction="LEFT", count=LOOK)
        with self._lock:
            ids = self._waits.wanted(parse_replies(reply))
            if time.monotonic() >= self._next_poll:
                self._next_poll = time.monotonic() + POLL_S
                ids = list(dict.fromkeys(ids + self._waits.next_polled()))
        if ids:
            self.look(ids)
