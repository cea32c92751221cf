"""Totals of a batch: counts, tokens, durations, GPU time; the progress bar and the final summary."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from producer.bulk.output.formats import LineSummary


@contextmanager
def progress_bar(quiet: bool, among_answers: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows the numbers of finished and failed rows.

    Nothing is shown if `quiet`, if stderr is not a terminal, or if answers are printed to the same terminal.
    """
    if quiet or not sys.stderr.isatty() or (among_answers and sys.stdout.isatty()):
        yield lambda done, failed: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("done", total=None)

        def show(done: int, failed: int) -> None:
            progress.update(task, completed=done, description=f"done, {failed:,} failed" if failed else "done")

        yield show


#: ratio of the widths of adjacent buckets
_RATIO = 1.05
_SHORTEST_S = 0.001


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
        self.tokens_in = 0
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
        self.durations.add(line.timings.total_s)
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


def summary_lines(
    totals: Totals, earlier: int, seconds: float, slots: Mapping[str, int], price: float | None
) -> Iterator[str]:
    """Yield the lines of the summary.

    `earlier` rows were finished by earlier runs, this run took `seconds`, and `price` is that of a GPU hour.
    """
    done = totals.answered + totals.failed
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(totals.codes.items()))
    yield f"{totals.answered:,} answered, {totals.failed:,} failed" + (f" ({codes})" if codes else "")
    now = done - earlier
    rate = f", {now / seconds:,.1f} rows/s" if now and seconds > 0 else ""
    before = f", {earlier:,} of them by earlier runs" if earlier else ""
    yield f"{done:,} rows{before}{rate}"
    if not totals.answered:
        return
    reused = f"; {totals.reused:,} answers reused" if totals.reused else ""
    yield f"{totals.tokens_in:,} tokens in, {totals.tokens_out:,} out{reused}"
    p50, p95 = totals.durations.quantile(0.5), totals.durations.quantile(0.95)
    yield f"from submission to answer: p50 {p50:.3g} s, p95 {p95:.3g} s (within 5 %)"
    yield _cost(totals, slots, price)


def _cost(totals: Totals, slots: Mapping[str, int], price: float | None) -> str:
    seconds = totals.gpu_s(slots)
    counts = ", ".join(map(str, sorted(set(slots.values()))))
    divisor = f"slots per worker ({counts})" if counts else "one slot, because the workers' slots are unknown"
    cost = "" if price is None else f", {seconds / 3600 * price:,.2f} at {price:g} an hour"
    return f"about {seconds:,.1f} GPU seconds{cost} (engine time divided by {divisor})"
