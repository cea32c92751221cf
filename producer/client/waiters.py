"""Bookkeeping of which caller waits for which jobs. One reader of Redis serves all. No I/O, and no locking."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from celery.backends.base import Backend

from producer.client.cursor import Cursor, Entry
from producer.client.sending import note_received
from producer.client.states import Found, outcome_of, still_open
from vqa.results import Outcome
from vqa.settings import QueueSettings
from vqa.tracing.active import active

#: open jobs are polled this often, because the reply list may be lost, or may belong to another client
POLL_S = 0.5
#: seconds after which the reply to a blocking read is overdue: when Redis's clock is set back, it blocks for that long
OVERDUE_S = POLL_S + 3.0
#: waking thousands of idle callers at each poll would take a third of a core
_CHECK_S = 30.0
#: Redis treats a shorter BLMPOP timeout as endless
SHORTEST_BLOCK_S = 0.01
#: With many jobs pending and few answers read, let answers gather before the next read: one read per answer takes a
#: third of two cores at 300 answers a second.
_GATHER_ABOVE, _GATHER_S = 64, 0.02
#: most ids in one look; with more, polls rotate through them
LOOK = 2000


class Waiter:
    """One caller that waits for jobs; `wake` is called when it has something to read."""

    def __init__(self, wake: Callable[[], None], cursor: Cursor | None = None) -> None:
        """With a cursor, it also reads the text of the cursor's job."""
        self.cursor = cursor
        self.pending: dict[str, None] = {}
        self.arrived: deque[tuple[str, Found]] = deque()
        self.failure: Exception | None = None
        self.wake = wake

    @property
    def notified(self) -> bool:
        """Whether there is an outcome, text or a failure that the caller has not read."""
        return bool(self.arrived or self.failure or (self.cursor and self.cursor.portions))

    def steps(self, timeout_s: float | None) -> Iterator[list[str] | float]:
        """Yield the next action: a list of ids to look up, or a monotonic time to wait until.

        After each one the caller reads what `arrived`.
        """
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        # jobs that ended earlier are not announced again
        ids = iter(list(self.pending))
        while page := list(islice(ids, LOOK)):
            yield page
        while self.pending and time.monotonic() < end:
            yield min(end, next_check())


def next_poll() -> float:
    """Return the monotonic time until which a wait lasts if the caller has something to do at each poll."""
    return time.monotonic() + POLL_S


def next_check() -> float:
    """Return the monotonic time until which a wait lasts if nothing else limits it: the reader wakes the caller."""
    return time.monotonic() + _CHECK_S


def closed() -> RuntimeError:
    """Return the error for calls of a client that is closed before or during them."""
    return RuntimeError("the client is closed; make another")


def arrived(backend: Backend, waiter: Waiter) -> Iterator[tuple[str, Outcome]]:
    """Take and decode the outcomes that have arrived."""
    tracing = active()
    while waiter.arrived:
        id, found = waiter.arrived.popleft()
        if tracing is not None and isinstance(found, bytes):
            note_received(tracing, id, found)
        yield id, outcome_of(backend, found)


def remaining(backend: Backend, waiter: Waiter) -> Iterator[tuple[str, Outcome]]:
    """Yield the last outcomes of a wait that ended, and AnswerTimeout for each job that is still open."""
    yield from arrived(backend, waiter)
    yield from ((id, still_open()) for id in waiter.pending)


class Waiters:
    """All waiters of a client."""

    def __init__(self) -> None:
        #: by job id; the ids polled longest ago come first
        self._by_id: dict[str, list[Waiter]] = {}
        #: waiters with a cursor, by job id
        self._streams: dict[str, list[Waiter]] = {}
        #: jobs that Redis may not know yet: they are looked up only once they are announced
        self.submitting: set[str] = set()
        #: monotonic
        self._next_poll = 0.0

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def add(self, waiter: Waiter, ids: Iterable[str]) -> None:
        """Register jobs; the caller itself must look up those that have ended already."""
        for id in ids:
            if id not in waiter.pending:
                waiter.pending[id] = None
                self._by_id.setdefault(id, []).append(waiter)
                if waiter.cursor and waiter.cursor.id == id:
                    self._streams.setdefault(id, []).append(waiter)

    def remove(self, waiter: Waiter) -> None:
        for id in waiter.pending:
            for waiters in (self._by_id, self._streams):
                others = [other for other in waiters.pop(id, []) if other is not waiter]
                if others:
                    waiters[id] = others

    def cursors(self, ids: Iterable[str]) -> list[Cursor]:
        """Return the cursors of those of the jobs that somebody streams."""
        if not self._streams:
            return []
        waiters = chain.from_iterable(self._streams.get(id, ()) for id in ids)
        return [waiter.cursor for waiter in waiters if waiter.cursor]

    def block_s(self, settings: QueueSettings) -> float:
        """Return how long a read of the reply list may block."""
        left_s = self._next_poll - time.monotonic()
        return max(SHORTEST_BLOCK_S, min(left_s, settings.redis_timeout_s / 2))

    def pause_s(self, read: int) -> float:
        """Return how long to let answers gather before the next read; the last one looked up `read` jobs."""
        return _GATHER_S if read < _GATHER_ABOVE < len(self._by_id) else 0.0

    def ids_to_look_up(self, announced: Iterable[str]) -> list[str]:
        """Return the ids to look up: the announced ones that have a waiter, and those due for a poll."""
        ids = dict.fromkeys(id for id in announced if id in self._by_id)
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + POLL_S
            polled = list(islice(self._by_id, LOOK))
            for id in polled:
                self._by_id[id] = self._by_id.pop(id)
            ids |= dict.fromkeys(id for id in polled if id not in self.submitting)
        return list(ids)

    def deliver(
        self, found: Mapping[str, Found], entries: Mapping[Cursor, Sequence[Entry] | Exception] | None = None
    ) -> None:
        for cursor, reply in (entries or {}).items():
            if cursor.receive(reply):
                for waiter in self._streams.get(cursor.id, ()):
                    waiter.wake()
        for id, outcome in found.items():
            self._streams.pop(id, None)
            for waiter in self._by_id.pop(id, ()):
                del waiter.pending[id]
                waiter.arrived.append((id, outcome))
                waiter.wake()

    def fail(self, error: Exception) -> None:
        """Make every waiter raise the error."""
        for waiter in {waiter for waiters in self._by_id.values() for waiter in waiters}:
            waiter.failure = error
            waiter.wake()
