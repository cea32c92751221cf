"""Arithmetic of sliding windows.

A limit is counted in windows that follow each other. The count of the previous window is weighted with the part of it
that still lies within one window's length before now, as if its uses were spread evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: seconds; Redis's times are in ms
_TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Window:
    """A limit, and what is used of it now."""

    limit: int
    #: seconds
    length_s: float
    #: uses in the previous and in the current window
    previous: int
    current: int
    #: seconds until the current window becomes the previous one
    left_s: float

    @property
    def used(self) -> int:
        return math.floor(self.previous * self.left_s / self.length_s) + self.current

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    def wait_s(self, amount: int = 1) -> float:
        """Return the seconds until `amount` fits, if nothing else is used before; inf if it never does."""
        if amount > self.limit:
            return math.inf
        room = self.limit - amount - self.current
        if room >= 0:
            return _fades_s(self.previous, room, self.left_s, self.length_s)
        # not before the current window is the previous one
        return self.left_s + _fades_s(self.current, self.limit - amount, self.length_s, self.length_s)

    @property
    def reset_s(self) -> float:
        """Seconds until nothing counts as used, if nothing is used before."""
        if self.current:
            return self.left_s + self.length_s
        return self.left_s if self.previous else 0.0


def _fades_s(count: int, room: int, left_s: float, length_s: float) -> float:
    """Return the seconds until a previous window's count, of which `left_s` still lie within, weighs at most `room`.

    Weights are rounded down, so that it has to fall below `room + 1`.
    """
    full_s = (room + 1) * length_s / count if count else math.inf
    return left_s - full_s + _TICK_S if left_s >= full_s else 0.0


def duration(seconds: float) -> str:
    """Return a duration as OpenAI's headers and Go write it: `120ms`, `8s`, `6m0s`, `23h59m1s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, whole = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{whole}s"
