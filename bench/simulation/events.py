"""Simulated time: calls that are due, in order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Events:
    """Runs calls at their times, in seconds; those of one time in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Add a call. One that is due already runs next, as time does not go back."""
        heapq.heappush(self._due, (max(time_s, self.now), next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def run(self, until_s: float = float("inf")) -> None:
        """Run until nothing is due, or until that time."""
        while self._due and self._due[0][0] <= until_s:
            self.now, _, call = heapq.heappop(self._due)
            call()
