"""Jobs of the simulation, and how they arrive."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vqa.jobs.lane import Lane


@dataclass(slots=True, eq=False)
class Work:
    """A job: when it arrives, what it asks for, and when it began and ended. Times are in seconds."""

    arrives: float
    lane: Lane = "interactive"
    tenant: str = ""
    #: time in a slot, for engines whose slots do not share anything
    service_s: float = 0.0
    #: for a card
    prompt_tokens: int = 0
    answer_tokens: int = 0
    began: float | None = None
    ended: float | None = None

    @property
    def waited_s(self) -> float:
        """From its arrival until it began."""
        assert self.began is not None
        return self.began - self.arrives

    @property
    def latency_s(self) -> float:
        assert self.ended is not None
        return self.ended - self.arrives


#: makes the job that arrives at a time
Make = Callable[[float], Work]


def poisson(rate: float, until_s: float, make: Make, draw: random.Random, start_s: float = 0.0) -> Iterator[Work]:
    """Yield jobs that arrive at random, `rate` a second on average."""
    for each in itertools.accumulate((draw.expovariate(rate) for _ in itertools.count()), initial=start_s):
        if each >= until_s:
            return
        if each > start_s:
            yield make(each)


def batch(at_s: float, count: int, make: Make) -> Iterator[Work]:
    """Yield jobs that arrive together."""
    return (make(at_s) for _ in range(count))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least `part` percent of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-len(ordered) * part // 100) - 1)]
