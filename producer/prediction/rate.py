"""How fast a queue's jobs were closed in the last minutes. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: seconds that a count covers, see `count_closed` in vqa/ledger/lua/ledger.lua
SLICE_S = 10
#: counts that are read: five minutes before the ten seconds that go on
SLICES = 30

#: the newest minutes count, as workers come and go: the fewest jobs and seconds from which a rate is taken
_ENOUGH_JOBS, _ENOUGH_S = 100, 60.0
#: seconds that count alone if their rate differs from the minutes before by so many standard deviations
_CHANGED_S, _CHANGED_DEVIATIONS = 30.0, 3.0
#: seconds whose rates are compared to find the slowest and the fastest
_COMPARED_S = 60.0
#: standard deviations that a count of n, whose own is its root, may be off
_DEVIATIONS = 2.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Jobs per second. `slow` is 0 if nothing bounds it from below; `fast` is None if nothing does from above."""

    jobs_s: float
    slow: float
    fast: float | None


@dataclass(frozen=True, slots=True)
class Closed:
    """Numbers of jobs that workers closed."""

    #: of each ten seconds, oldest first; the last ones go on
    counts: Sequence[int]
    #: seconds on Redis's clock
    now_s: float

    @property
    def _first_s(self) -> int:
        return (int(self.now_s // SLICE_S) - len(self.counts) + 1) * SLICE_S

    def rate_since(self, since_s: float, leased: int = 0) -> Rate | None:
        """Return the rate since then, while the queue had jobs; None if there is no whole slice of it.

        Counts begin with the first slice behind the one in which a job was closed first: before, slots were filled.
        The `leased` jobs, that are with workers, may all end together, as in microbatches: a count may be off by them.
        """
        busy = self._first_busy(since_s)
        if busy is None or self.now_s - self._start_s(busy + 1) < SLICE_S or not any(self.counts[busy + 1 :]):
            return None
        return self._rate(busy + 1, leased)

    def first_rate(self, since_s: float, leased: int = 0) -> Rate | None:
        """Return the rate since then if no job was closed before, for minutes; None if none was closed since."""
        busy = self._first_busy(since_s)
        if busy is None:
            return None
        return _uncertain(sum(self.counts[busy:]), self.now_s - max(since_s, self._start_s(busy)), leased)

    def _first_busy(self, since_s: float) -> int | None:
        begin = max(0, math.floor((since_s - self._first_s) / SLICE_S))
        return next((index for index in range(begin, len(self.counts)) if self.counts[index]), None)

    def rate_before(self, since_s: float) -> Rate | None:
        """Return the fastest minute's rate before then, of the time in which jobs were closed; None if there is none.

        The queue may have been empty for a part of it, so that it could have been faster.
        """
        end = min(len(self.counts) - 1, math.floor((since_s - self._first_s) / SLICE_S))
        found = [count for count in self.counts[: max(0, end)] if count]
        if not found:
            return None
        width = min(len(found), round(_COMPARED_S / SLICE_S))
        minutes = [sum(found[first : first + width]) / width for first in range(len(found) - width + 1)]
        return Rate(max(minutes) / SLICE_S, min(found) / SLICE_S, None)

    def mean(self, seconds: float) -> float:
        """Return the jobs per second of about the last `seconds`."""
        start = max(0, len(self.counts) - 1 - round(seconds / SLICE_S))
        return sum(self.counts[start:]) / max(1.0, self.now_s - self._start_s(start))

    def _start_s(self, index: int) -> int:
        return self._first_s + index * SLICE_S

    def _rate(self, start: int, leased: int) -> Rate:
        changed = self._changed(start, leased)
        # nothing says how long workers that stand still will
        stalled = changed is not None and not any(self.counts[changed:])
        first = self._newest(start) if changed is None or stalled else changed
        point = _uncertain(sum(self.counts[first:]), self.now_s - self._start_s(first), leased)
        compared = list(self._windows(start))
        slow, fast = 0.0 if stalled else min([point.slow, *compared]), point.fast
        return Rate(point.jobs_s, slow, None if fast is None else max([fast, *compared]))

    def _newest(self, start: int) -> int:
        """Return the latest beginning of a time with enough jobs, else `start`."""
        jobs = 0
        for first in range(len(self.counts) - 1, start, -1):
            jobs += self.counts[first]
            if jobs >= _ENOUGH_JOBS and self.now_s - self._start_s(first) >= _ENOUGH_S:
                return first
        return start

    def _changed(self, start: int, leased: int) -> int | None:
        """Return when the last half minute began if its rate is another one than before: workers came or went."""
        first = math.floor((self.now_s - _CHANGED_S - self._first_s) / SLICE_S)
        before = max(start, first - round(_COMPARED_S / SLICE_S))
        if first - before < _CHANGED_S / SLICE_S:
            return None
        new, new_s = sum(self.counts[first:]), self.now_s - self._start_s(first)
        old, old_s = sum(self.counts[before:first]), (first - before) * SLICE_S
        # jobs that end together may be in one time or the other
        noise = _CHANGED_DEVIATIONS * math.sqrt(new / new_s**2 + old / old_s**2) + leased * (1 / new_s + 1 / old_s)
        return first if abs(new / new_s - old / old_s) > noise else None

    def _windows(self, start: int) -> Iterator[float]:
        """Yield the rates of each minute, or of halves of a shorter time."""
        span_s = self.now_s - self._start_s(start)
        width = max(1, round(min(_COMPARED_S, span_s / 2) / SLICE_S))
        for first in range(start, len(self.counts) - width):
            yield sum(self.counts[first : first + width]) / (width * SLICE_S)


def _uncertain(jobs: int, seconds: float, leased: int) -> Rate:
    """Return the rate of a count, which is off by some of its roots, or by jobs that end together."""
    seconds = max(seconds, 1.0)
    off = max(_DEVIATIONS * math.sqrt(jobs), leased)
    return Rate(jobs / seconds, max(0.0, jobs - off) / seconds, (jobs + off) / seconds)
