"""One thread that does things at their time: deadlines, and the echo engine's delays."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Alarm:
    """Something to do at a time; `cancel` takes it back."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do nothing at that time; what the alarm held on to is let go at once."""
        self.action = None


class Clock:
    """A heap of alarms and one thread that waits for the next.

    Alarms that were cancelled stay in the heap until they are due or are more than half of it (as asyncio's timers
    do), so that a day-long deadline of a prompt answered in a second does not pile up.
    """

    def __init__(self, name: str) -> None:
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._sweep_at = 128
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to do what is due."""
        self._thread.start()

    def at(self, when: float, action: Callable[[], None]) -> Alarm:
        """Call `action` from the clock's thread at `when` on `time.monotonic()`'s clock; it must be quick."""
        alarm = Alarm(action)
        if when == float("inf"):
            return alarm
        with self._changed:
            if len(self._alarms) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._alarms, (when, next(self._order), alarm))
            if self._alarms[0][2] is alarm:
                self._changed.notify()
        return alarm

    def stop(self) -> None:
        """End the thread; alarms that are not due never ring."""
        with self._changed:
            self._stopped = True
            self._alarms.clear()
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _sweep(self) -> None:
        self._alarms = [entry for entry in self._alarms if entry[2].action]
        heapq.heapify(self._alarms)
        self._sweep_at = max(128, 2 * len(self._alarms))

    def _run(self) -> None:
        while (due := self._next_due()) is not None:
            if action := due.action:
                try:
                    action()
                except Exception:
                    # one prompt's alarm is not to silence the others'
                    log.exception("an alarm failed")
            del due, action

    def _next_due(self) -> Alarm | None:
        with self._changed:
            while not self._stopped:
                if not self._alarms:
                    self._changed.wait()
                elif (wait_s := self._alarms[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
                else:
                    return heapq.heappop(self._alarms)[2]
        return None
