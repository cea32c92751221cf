"""Calls functions at given times from one thread: deadlines, and the echo engine's delays."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Timer:
    """A function to call at a given time."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not call the function; release what it references at once."""
        self.action = None


class Timers:
    """A heap of timers and one thread that waits for the next.

    Cancelled timers stay in the heap until they are due or make up more than half of it, as in asyncio. So the timers
    of day-long deadlines do not pile up when prompts are answered within seconds.
    """

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._sweep_at = 128
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Call `action` from the timers' thread at `when`, on `time.monotonic()`'s clock; it must return quickly."""
        timer = Timer(action)
        if when == float("inf"):
            return timer
        with self._changed:
            if len(self._heap) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._heap, (when, next(self._order), timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def stop(self) -> None:
        """End the thread and drop all timers."""
        with self._changed:
            self._stopped = True
            self._heap.clear()
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].action]
        heapq.heapify(self._heap)
        self._sweep_at = max(128, 2 * len(self._heap))

    def _run(self) -> None:
        while (due := self._next_due()) is not None:
            if action := due.action:
                try:
                    action()
                except Exception:
                    # the other prompts' timers must still fire
                    log.exception("a timer failed")
            del due, action

    def _next_due(self) -> Timer | None:
        with self._changed:
            while not self._stopped:
                if not self._heap:
                    self._changed.wait()
                elif (wait_s := self._heap[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
                else:
                    return heapq.heappop(self._heap)[2]
        return None
