"""Lets few of a worker's threads compute at a time, the oldest jobs first, while the others wait.

All threads compute under one lock of Python. If hundreds did so at once, each step of every job would alternate with
those of all others: the first prompt would reach the engine when nearly all are ready, and the card would wait.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vqa.jobs.lane import Lane

#: threads that compute at once; the others of them wait for Redis meanwhile
_AT_ONCE = 3

#: seconds after which a thread computes without a permit: if Redis hangs, those that have one hold up nobody for long
_PATIENCE_S = 5.0

#: interactive before bulk, then by arrival
_Rank = tuple[bool, int]


class Gate:
    """Lets a few threads through at a time, by rank."""

    def __init__(self, permits: int = _AT_ONCE, patience_s: float = _PATIENCE_S) -> None:
        self._free = permits
        self._patience_s = patience_s
        self._lock = threading.Lock()
        #: a lock for each waiting thread, which is released when the thread has a permit
        self._waiting: list[tuple[_Rank, threading.Lock]] = []

    def enter(self, rank: _Rank) -> bool:
        """Wait for a permit; return False if there was none for too long."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            admitted = threading.Lock()
            admitted.acquire()
            heapq.heappush(self._waiting, (rank, admitted))
        if admitted.acquire(timeout=self._patience_s):
            return True
        with self._lock:
            if (rank, admitted) not in self._waiting:
                # it got one just now
                return True
            self._waiting.remove((rank, admitted))
            heapq.heapify(self._waiting)
        return False

    def leave(self) -> None:
        """Give a permit back."""
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[1].release()
            else:
                self._free += 1


class Permits:
    """The gates of a worker: one before its jobs are prepared, one after they are answered.

    They are two, so that neither hundreds of answers that end together hold up the next prompts nor the reverse.
    """

    def __init__(self) -> None:
        self._preparing, self._finishing = Gate(), Gate()
        self._numbers = itertools.count()

    def next(self, lane: Lane) -> Permit:
        """Return the permit of a job that arrives now."""
        return Permit(self._preparing, self._finishing, (lane != "interactive", next(self._numbers)))


class Permit:
    """The place of one job in the order; used by the job's thread."""

    def __init__(self, preparing: Gate, finishing: Gate, rank: _Rank) -> None:
        self._preparing, self._finishing = preparing, finishing
        self._rank = rank
        #: whose permit the thread has
        self._inside: Gate | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold a permit, except in `waiting` and `answered`."""
        self._enter(self._preparing)
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold no permit in a block that waits for something else than Redis."""
        self._leave()
        try:
            yield
        finally:
            self._enter(self._preparing)

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Hold no permit in a block that waits for the engine, and finish after it."""
        self._leave()
        try:
            yield
        finally:
            self._enter(self._finishing)

    def _enter(self, gate: Gate) -> None:
        self._inside = gate if gate.enter(self._rank) else None

    def _leave(self) -> None:
        if self._inside is not None:
            self._inside.leave()
            self._inside = None
