"""Sum up the lines of a batch: counts, tokens, durations, time in the engine."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from producer.bulk.output.formats import LineSummary

#: ratio of the widths of adjacent buckets
_RATIO = 1.05
_SHORTEST_S = 0.001

#: rows that `Totals` names
_NAMED = 5


class Histogram:
    """Durations in buckets on a log scale: quantiles are within 5 %, and a month takes 450 buckets."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0

    def add(self, seconds: float) -> None:
        self._buckets[max(0, math.floor(math.log(max(seconds, _SHORTEST_S) / _SHORTEST_S, _RATIO)))] += 1
        self._count += 1

    def quantile(self, share: float) -> float | None:
        """Return the quantile in seconds, or None without durations."""
        passed = 0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            if passed >= share * self._count:
                return float(_SHORTEST_S * _RATIO ** (bucket + 0.5))
        return None


class Totals:
    """Sums over all lines of OUT and ERR."""

    def __init__(self) -> None:
        self.answered = 0
        #: failed rows by error code
        self.codes: Counter[str] = Counter()
        self.reused = 0
        #: rows of which the model saw the first frame of an animation only, and the first of their names
        self.partial = 0
        self.partial_names: list[str] = []
        self.tokens_in = 0
        #: of `tokens_in`, those that workers had in their caches
        self.tokens_cached = 0
        self.tokens_out = 0
        #: from submission to answer
        self.durations = Histogram()
        #: seconds in the engine, by worker name
        self.engine_s: defaultdict[str, float] = defaultdict(float)

    @property
    def failed(self) -> int:
        return sum(self.codes.values())

    def add(self, line: LineSummary) -> None:
        if line.code is not None or line.usage is None or line.timings is None:
            self.codes[line.code or "unknown"] += 1
            return
        self.answered += 1
        self.tokens_in += line.usage.prompt_tokens
        self.tokens_out += line.usage.completion_tokens
        self.tokens_cached += line.usage.cached_tokens
        self.durations.add(line.timings.total_s)
        if line.is_partial:
            self.partial += 1
            self.partial_names += [str(line.custom_id)][: _NAMED - len(self.partial_names)]
        if line.reused:
            self.reused += 1
        else:
            self.engine_s[line.worker] += line.timings.engine_s

    def gpu_s(self, slots: Mapping[str, int]) -> float:
        """Return the GPU seconds: each answer's time in the engine, divided by the slots of its worker.

        Unknown workers count with the mean number of slots, or with 1 if no worker is known.
        """
        mean = sum(slots.values()) / len(slots) if slots else 1.0
        return sum(seconds / slots.get(worker, mean) for worker, seconds in self.engine_s.items())
