"""What a batch came to: counts, tokens, times, and what it cost."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from producer.bulk.output.formats import Told


@contextmanager
def bar(among_answers: bool) -> Iterator[Callable[[int, int], None]]:
    """Told how many rows are done, and how many of them failed; shown only where it does not run through answers."""
    if not sys.stderr.isatty() or (among_answers and sys.stdout.isatty()):
        yield lambda done, failed: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    parts = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("done", total=None)

        def show(done: int, failed: int) -> None:
            progress.update(task, completed=done, description=f"done, {failed:,} failed" if failed else "done")

        yield show


#: of a histogram's bars, each to the one before
_STEP = 1.05
_SHORTEST_S = 0.001


class Histogram:
    """Durations, counted in bars on a log scale: a quantile is at most 5 % from the true one; a month is 450 bars."""

    def __init__(self) -> None:
        self._bars: Counter[int] = Counter()
        self._count = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._bars[max(0, math.floor(math.log(max(seconds, _SHORTEST_S) / _SHORTEST_S, _STEP)))] += 1
        self._count += 1

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of them was; None of none."""
        passed = 0
        for bar in sorted(self._bars):
            passed += self._bars[bar]
            if passed >= share * self._count:
                return float(_SHORTEST_S * _STEP ** (bar + 0.5))
        return None


class Tally:
    """What all lines of OUT and ERR add up to."""

    def __init__(self) -> None:
        self.answered = 0
        self.codes: Counter[str] = Counter()
        self.reused = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.took = Histogram()
        #: seconds in engines, by worker
        self.engine_s: defaultdict[str, float] = defaultdict(float)

    @property
    def failed(self) -> int:
        """Rows without an answer."""
        return sum(self.codes.values())

    def add(self, told: Told) -> None:
        """Count a line."""
        if told.code is not None or told.usage is None or told.timings is None:
            self.codes[told.code or "unknown"] += 1
            return
        self.answered += 1
        self.tokens_in += told.usage.prompt_tokens
        self.tokens_out += told.usage.completion_tokens
        self.took.add(told.timings.total_s)
        if told.reused:
            self.reused += 1
        else:
            self.engine_s[told.worker] += told.timings.engine_s

    def gpu_s(self, slots: Mapping[str, int]) -> float:
        """Seconds of cards: an answer's in the engine, shared with as many as its worker has slots.

        A worker that is not known any more had as many as the others have on average; 1 where none is known.
        """
        usual = sum(slots.values()) / len(slots) if slots else 1.0
        return sum(seconds / slots.get(worker, usual) for worker, seconds in self.engine_s.items())


def told_in_words(
    tally: Tally, earlier: int, seconds: float, slots: Mapping[str, int], price: float | None
) -> Iterator[str]:
    """The lines of a summary; `earlier` of the rows were done by runs before this one, which took `seconds`."""
    yield f"{tally.answered:,} answered, {tally.failed:,} failed{_codes(tally)}"
    now = tally.answered + tally.failed - earlier
    rate = f", {now / seconds:,.1f} rows/s" if now and seconds > 0 else ""
    before = f", {earlier:,} of them by earlier runs" if earlier else ""
    yield f"{tally.answered + tally.failed:,} rows{before}{rate}"
    if not tally.answered:
        return
    reused = f"; {tally.reused:,} answers reused" if tally.reused else ""
    yield f"{tally.tokens_in:,} tokens in, {tally.tokens_out:,} out{reused}"
    p50, p95 = tally.took.quantile(0.5), tally.took.quantile(0.95)
    yield f"submitted until answered: p50 {p50:.3g} s, p95 {p95:.3g} s (5 % more or less)"
    yield _cost(tally, slots, price)


def _codes(tally: Tally) -> str:
    if not tally.codes:
        return ""
    return " (" + ", ".join(f"{code} {count:,}" for code, count in sorted(tally.codes.items())) + ")"


def _cost(tally: Tally, slots: Mapping[str, int], price: float | None) -> str:
    seconds = tally.gpu_s(slots)
    known = sorted(set(slots.values()))
    by = f"slots: {', '.join(map(str, known))}" if known else "one slot: the workers' number is not known"
    cost = "" if price is None else f", {seconds / 3600 * price:,.2f} at {price:g} an hour"
    return f"about {seconds:,.1f} GPU seconds{cost} (time in the engine by {by})"
