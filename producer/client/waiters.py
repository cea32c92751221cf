"""Who waits for which jobs. Whoever reads Redis reads for all that wait. No I/O, and not locked: callers take turns."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from celery.backends.base import Backend

from producer.client.states import Found, outcome_of, still_open
from producer.client.submission import CHUNK, SOON_S, chunks
from vqa.job import Job
from vqa.results import Outcome
from vqa.settings import QueueSettings

#: open jobs are looked at so often, whatever the reply list says: it may be lost, and it may be another client's
POLL_S = 0.5
#: Redis takes a shorter block for an endless one
_SHORTEST_BLOCK_S = 0.01
#: Where so many are waited for, and few were read, the next ones gather: a read for each answer takes a third of what
#: two cores can do at 300 answers a second.
_MANY, _GATHER_S = 64, 0.02
#: ids in one look; of more, each poll takes the next ones in turn
LOOK = 2000


class Window:
    """Jobs on their way in: a chunk is due while fewer than `in_flight` are open, and none is read ahead of that."""

    def __init__(self, jobs: Iterable[Job], in_flight: int) -> None:
        self._size = min(CHUNK, max(1, in_flight // 4))
        jobs = iter(jobs)
        # the first one goes alone: the next may be long in coming
        self._chunks = chain(chunks(islice(jobs, 1)), chunks(jobs, self._size))
        self._in_flight = in_flight
        self._ended = False
        self._held: Sequence[Job] = ()
        #: monotonic: when what is held is due again
        self._again = 0.0
        #: whether jobs come more slowly than they are sent
        self.slow = False

    @property
    def done(self) -> bool:
        """Whether every job has been let through."""
        return self._ended and not self._held

    def due(self, open_jobs: int) -> Sequence[Job]:
        """The jobs to submit now that so many are open; none where it is full, held up or at its end."""
        self.slow = False
        if self._held:
            held, self._held = (self._held, ()) if time.monotonic() >= self._again else ((), self._held)
            return held
        if self._ended or open_jobs > self._in_flight - self._size:
            return ()
        begun = time.monotonic()
        chunk = next(self._chunks, [])
        self.slow = time.monotonic() - begun >= SOON_S
        self._ended = not chunk
        return chunk

    def widen(self, in_flight: int) -> None:
        """From now on so many may be open."""
        self._in_flight = in_flight

    def hold(self, jobs: Sequence[Job], pause_s: float) -> None:
        """These could not be submitted; they are due again after a pause."""
        self._held, self._again = jobs, time.monotonic() + pause_s

    def until(self) -> float:
        """The monotonic time until which the caller may wait for answers before it asks for jobs that are due."""
        if self.slow:
            return time.monotonic() + _SHORTEST_BLOCK_S
        return min(soon(), self._again) if self._held else soon()


class Wait:
    """One caller's wait for some jobs; `wake` is called when there is something for it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.pending: dict[str, None] = {}
        self.arrived: deque[tuple[str, Found]] = deque()
        self.failure: Exception | None = None
        self.wake = wake

    @property
    def stirred(self) -> bool:
        """Whether there is something that its caller has not seen."""
        return bool(self.arrived or self.failure)

    def steps(self, timeout_s: float | None) -> Iterator[list[str] | float]:
        """What its caller does until all ended or the time is over: look at some ids, or take a turn until (monotonic).

        After each step its caller takes what `arrived`.
        """
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        # what ended before the wait began is announced no more
        before = iter(list(self.pending))
        while ids := list(islice(before, LOOK)):
            yield ids
        while self.pending and time.monotonic() < end:
            yield min(end, soon())


def soon() -> float:
    """The monotonic time until which a turn may last when nothing else bounds it."""
    return time.monotonic() + POLL_S


def closed() -> RuntimeError:
    """What whoever waits is told when its client is closed."""
    return RuntimeError("the client was closed while this waited")


def arrived(backend: Backend, wait: Wait) -> Iterator[tuple[str, Outcome]]:
    """How jobs ended since this was last asked."""
    while wait.arrived:
        id, found = wait.arrived.popleft()
        yield id, outcome_of(backend, found)


def remaining(backend: Backend, wait: Wait) -> Iterator[tuple[str, Outcome]]:
    """What is left of a wait that was given up, so that its caller is told of each id once."""
    yield from arrived(backend, wait)
    yield from ((id, still_open()) for id in wait.pending)


class Waits:
    """All waits of a client."""

    def __init__(self) -> None:
        #: by id, polled longest ago first
        self._of: dict[str, list[Wait]] = {}
        #: monotonic
        self._next_poll = 0.0

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, wait: Wait, ids: Iterable[str]) -> None:
        """From now on `wait` hears of these jobs; what ended before, its caller looks up once."""
        for id in ids:
            if id not in wait.pending:
                wait.pending[id] = None
                self._of.setdefault(id, []).append(wait)

    def remove(self, wait: Wait) -> None:
        """The caller has gone."""
        for id in wait.pending:
            others = [other for other in self._of.pop(id, []) if other is not wait]
            if others:
                self._of[id] = others

    def block_s(self, settings: QueueSettings) -> float:
        """How long a read of the reply list may block."""
        left_s = self._next_poll - time.monotonic()
        return max(_SHORTEST_BLOCK_S, min(left_s, settings.redis_timeout_s / 2))

    def pause_s(self, read: int) -> float:
        """How long answers are left to gather before the next read; `read` were looked at in the last."""
        return _GATHER_S if read < _MANY < len(self._of) else 0.0

    def next_looked_at(self, announced: Iterable[str]) -> list[str]:
        """The announced ids that somebody waits for (others are read when somebody asks), and those due for a poll."""
        ids = dict.fromkeys(id for id in announced if id in self._of)
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + POLL_S
            polled = list(islice(self._of, LOOK))
            for id in polled:
                self._of[id] = self._of.pop(id)
            ids |= dict.fromkeys(polled)
        return list(ids)

    def deliver(self, found: Mapping[str, Found]) -> None:
        """Hand out how jobs ended."""
        for id, end in found.items():
            for wait in self._of.pop(id, ()):
                del wait.pending[id]
                wait.arrived.append((id, end))
                wait.wake()

    def fail(self, error: Exception) -> None:
        """Tell everybody that reading failed."""
        for wait in {wait for waits in self._of.values() for wait in waits}:
            wait.failure = error
            wait.wake()
