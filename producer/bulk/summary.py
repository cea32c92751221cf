"""Show a batch while it runs and at its end: the progress bar and the summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from producer.bulk.output.totals import Totals

#: shows the numbers of finished and failed rows, of bytes saved, and of all rows, if that is known
Progress = Callable[[int, int, int, int | None], None]


@contextmanager
def progress_bar(quiet: bool, among_answers: bool) -> Iterator[Progress]:
    """Yield a function that shows the numbers of finished, failed and all rows, and of bytes saved by shrinking images.

    Nothing is shown if `quiet`, if stderr is not a terminal, or if answers are printed to the same terminal.
    """
    if quiet or not sys.stderr.isatty() or (among_answers and sys.stdout.isatty()):
        yield lambda done, failed, saved, rows: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("done", total=None)

        def show(done: int, failed: int, saved: int, rows: int | None) -> None:
            words = ("done", f"{failed:,} failed" if failed else "", f"{saved / 1e6:,.0f} MB saved" if saved else "")
            progress.update(task, completed=done, total=rows, description=", ".join(filter(None, words)))

        yield show


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
    cached = f" ({totals.tokens_cached:,} of them cached)" if totals.tokens_cached else ""
    yield f"{totals.tokens_in:,} tokens in{cached}, {totals.tokens_out:,} out{reused}"
    p50, p95 = totals.durations.quantile(0.5), totals.durations.quantile(0.95)
    yield f"from submission to answer: p50 {p50:.3g} s, p95 {p95:.3g} s (within 5 %)"
    yield _cost(totals, slots, price)
    yield from partial_lines(totals)


def partial_lines(totals: Totals) -> Iterator[str]:
    """Say which rows were not asked about all that their images hold."""
    if totals.partial:
        more = ", ..." if totals.partial > len(totals.partial_names) else ""
        yield (
            f"{totals.partial:,} rows were asked about the first frame only: {', '.join(totals.partial_names)}{more}"
        )


def _cost(totals: Totals, slots: Mapping[str, int], price: float | None) -> str:
    seconds = totals.gpu_s(slots)
    counts = ", ".join(map(str, sorted(set(slots.values()))))
    divisor = f"slots per worker ({counts})" if counts else "one slot, because the workers' slots are unknown"
    cost = "" if price is None else f", {seconds / 3600 * price:,.2f} at {price:g} an hour"
    # a worker without a card is named cpu@host, unless its user names it
    on_cpu = bool(slots) and all(name.startswith("cpu") for name in slots)
    return f"about {seconds:,.1f} {'CPU' if on_cpu else 'GPU'} seconds{cost} (engine time divided by {divisor})"
