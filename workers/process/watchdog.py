"""Looks from outside at the engine's threads, and tells the supervisor that this process lives.

A thread that is stuck in CUDA cannot be ended, so what is done about a stall is the end of the process; that is
`on_stall`'s business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.engine.base import Stall

#: A round this much later than it was due means that the whole process did not run (stopped, swapped out, the
#: interpreter's lock held in a C call).
_LATE_S = 1.0


class Watchdog:
    """A thread of its own that looks every `every_s` seconds, from `start` to `stop`."""

    def __init__(
        self,
        stall: Callable[[], Stall | None],
        on_stall: Callable[[Stall], None],
        on_round: Callable[[], None],
        every_s: float,
    ) -> None:
        self._stall = stall
        self._on_stall = on_stall
        self._on_round = on_round
        self._every_s = every_s
        self._told = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def stalled(self) -> bool:
        """Whether the engine hangs: what this worker holds is not to be renewed any more."""
        return self._told.is_set()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. `on_stall` and `on_round` may call it."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._every_s + _LATE_S)

    def _run(self) -> None:
        round_at = awake_since = time.monotonic()
        while not self._stopping.wait(self._every_s):
            now = time.monotonic()
            if now - round_at > self._every_s + _LATE_S:
                # the engine's threads did not run either: they get their whole time anew
                awake_since = now
            round_at = now
            self._on_round()
            if not self.stalled:
                self._judge(now - awake_since)

    def _judge(self, awake_s: float) -> None:
        stall = self._stall()
        if stall is not None and awake_s > stall.limit_s:
            self._told.set()
            self._on_stall(stall)
