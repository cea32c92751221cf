"""A circuit breaker for one server: closed, open, half-open (Nygard, Release It!, 2007)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

#: failures in a row that open it
MOST_FAILURES = 5

#: seconds that it stays open: the first time, and at most; each further time twice as long
FIRST_S, LONGEST_S = 1.0, 30.0


class Breaker:
    """Closed lets requests through, open none, half-open one, whose end decides. Belongs to one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        #: times that it opened without a success in between
        self._opened = 0
        self._until = float("-inf")
        self.state: State = "closed"
        #: of the last failure
        self.reason = ""

    @property
    def is_due(self) -> bool:
        """Whether it is open and the server should be looked at again."""
        return self.state == "open" and self._clock() >= self._until

    def fail(self, reason: str, at_once: bool = False) -> bool:
        """Count a failure; return whether this opened it. `at_once` opens it whatever was before."""
        self._failures += 1
        self.reason = reason
        if self.state == "closed" and not at_once and self._failures < MOST_FAILURES:
            return False
        opens = self.state == "closed"
        if self.state != "open" or self.is_due:
            self._until = self._clock() + min(LONGEST_S, FIRST_S * 2.0 ** min(self._opened, 10))
            self._opened += 1
        self.state = "open"
        return opens

    def looked(self) -> None:
        """Note that an open one's server has answered a health check."""
        if self.state == "open":
            self.state = "half-open"

    def succeed(self) -> bool:
        """Count an answered request; return whether this closed it. One that was sent before it opened does not."""
        if self.state == "open":
            return False
        closes = self.state == "half-open"
        self.state, self._failures, self._opened = "closed", 0, 0
        return closes
