"""A thread that checks from outside whether the engine's threads are alive.

A thread that is stuck in CUDA cannot be ended, so `on_stall` has to end the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.engine.base import Stall

#: a check this much later than due means that the whole process was not running (stopped, swapped out, or a C call kept
#: the interpreter's lock)
_LATE_S = 1.0


class Watchdog:
    """Calls `on_check` every `every_s` seconds, and `on_stall` once if `stall` returns a stall."""

    def __init__(
        self,
        stall: Callable[[], Stall | None],
        on_stall: Callable[[Stall], None],
        on_check: Callable[[], None],
        every_s: float,
    ) -> None:
        self._stall = stall
        self._on_stall = on_stall
        self._on_check = on_check
        self._every_s = every_s
        self._stalled = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def stalled(self) -> bool:
        """Whether the engine hangs; its leases must not be renewed then."""
        return self._stalled.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop checking; `on_stall` and `on_check` may call this."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._every_s + _LATE_S)

    def _run(self) -> None:
        checked_at = awake_since = time.monotonic()
        while not self._stopping.wait(self._every_s):
            now = time.monotonic()
            if now - checked_at > self._every_s + _LATE_S:
                # the engine's threads were not running either: their time limits start anew
                awake_since = now
            checked_at = now
            self._on_check()
            if not self.stalled:
                self._check_stall(now - awake_since)

    def _check_stall(self, awake_s: float) -> None:
        stall = self._stall()
        if stall is not None and awake_s > stall.limit_s:
            self._stalled.set()
            self._on_stall(stall)
