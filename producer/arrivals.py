"""Items of a source that may be slow, such as a pipe, a queue or a generator that waits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")

#: items that are read together, if the caller wants them one by one; each may hold an image
_AHEAD = 64

#: seconds that a caller that leaves waits for the thread, so that the source is free when it goes on
_JOIN_S = 1.0


def arriving(
    items: Iterable[T], wait_s: float, most: int, weigh: Callable[[T], int] = lambda _: 0, most_weight: int = 1
) -> Iterator[list[T]]:
    """Yield lists of items that a thread reads, so that the caller can send what is there before the next one comes.

    A list comes once it holds `most` items or they weigh `most_weight`, or `wait_s` seconds after it was asked for: an
    empty one if nothing came. An item is read only while a list is wanted; so at most one is read ahead, if its source
    was slow. Raises what reading raises, without the items of the list that is not complete.
    """
    return _lists(_Reader(items, most, weigh, most_weight), wait_s)


def arriving_singly(items: Iterable[T], wait_s: float, ahead: int = _AHEAD) -> Iterator[T | None]:
    """Yield the items, of which up to `ahead` are read together, and None after `wait_s` seconds in which none came."""
    for some in arriving(items, wait_s, ahead):
        yield from some
        if not some:
            yield None


def _lists(reader: _Reader[T], wait_s: float) -> Iterator[list[T]]:
    try:
        while (items := reader.take(wait_s)) is not None:
            yield items
    finally:
        reader.leave()


class _Reader(Generic[T]):
    """A thread that reads while a caller waits, and the list that it gathers. It begins with the first `take`."""

    def __init__(self, items: Iterable[T], most: int, weigh: Callable[[T], int], most_weight: int) -> None:
        self._items = items
        self._most = most
        self._weigh = weigh
        self._most_weight = most_weight
        #: guards the fields below; reentrant, as a collector of garbage may call `leave` anywhere
        self._changed = threading.Condition(threading.RLock())
        self._gathered: list[T] = []
        self._weight = 0
        self._wanted = self._gone = self._ended = False
        #: whether the thread is between two items
        self._idle = False
        self._error: BaseException | None = None
        self._pid = os.getpid()
        # a daemon: nothing ends a read of a source that is silent; the source sees the caller's context variables
        self._thread = threading.Thread(target=copy_context().run, args=(self._read,), name="vqa-source", daemon=True)

    def take(self, wait_s: float) -> list[T] | None:
        """Return what there is once the list is full or the time is over; None after the last item."""
        if self._pid != os.getpid():
            raise RuntimeError("the process forked during this call; read the jobs again in the child")
        with self._changed:
            self._wanted = True
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended or self._is_full(), wait_s)
            self._wanted = False
            if self._error is not None:
                raise self._error
            items, self._gathered, self._weight = self._gathered, [], 0
            return None if self._ended and not items else items

    def leave(self) -> None:
        """Have the thread end, at once if it is between two items, else after the one that it waits for."""
        if self._pid != os.getpid():
            # the lock may be held by the parent's thread
            return
        with self._changed:
            self._gone = True
            self._error = None
            self._changed.notify_all()
            ends = self._idle and not sys.is_finalizing() and threading.current_thread() is not self._thread
        if ends:
            self._thread.join(_JOIN_S)

    def _is_full(self) -> bool:
        return len(self._gathered) >= self._most or self._weight >= self._most_weight

    def _read(self) -> None:
        # If the source waits for sys.stdin.buffer when the interpreter ends, this reference keeps the interpreter from
        # closing it, which would abort the process.
        _stdin = sys.stdin
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as raised:
            error = raised
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """Add an item; return True once the next one is wanted, and False if the caller is gone."""
        weight = self._weigh(item)
        with self._changed:
            self._gathered.append(item)
            self._weight += weight
            if self._is_full():
                self._changed.notify_all()
            self._idle = True
            self._changed.wait_for(lambda: self._gone or (self._wanted and not self._is_full()))
            self._idle = False
            return not self._gone
