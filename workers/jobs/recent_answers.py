"""How many jobs this worker answered within the last minute, for the list of workers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from vqa.answer import Answer
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome

#: seconds
_WINDOW_S = 60


class RecentAnswers:
    """Middleware that counts answers, those of the answer cache included if it is outermost.

    It keeps one count per second, so memory does not grow with the rate. An answer that comes too late to close its
    job counts too: the worker computed it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: (second of the clock, answers in it), oldest first
        self._seconds: deque[tuple[int, int]] = deque()

    def before(self, job: Job, lease: Lease) -> Answer | None:
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Answer):
            with self._lock:
                now = int(self._clock())
                last, count = self._seconds.pop() if self._seconds else (now, 0)
                if last != now:
                    self._seconds.append((last, count))
                    count = 0
                self._seconds.append((now, count + 1))
                self._forget(now)
        return outcome

    def figures(self) -> dict[str, int]:
        """Return the number of answers within the last minute, to a second, as it is shown in the list of workers."""
        with self._lock:
            self._forget(int(self._clock()))
            return {"answered_1m": sum(count for _, count in self._seconds)}

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - _WINDOW_S:
            self._seconds.popleft()
