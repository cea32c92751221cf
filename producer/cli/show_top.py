"""One frame of `vqa top`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.monitor.queue_reader import ERROR_MINUTES
from producer.monitor.queue_view import QueueView, View
from producer.prediction.words import ends, span
from vqa.ledger.batch_state import BatchState
from vqa.ledger.records import WorkerInfo

#: seconds over which a rate is the one of now: what is counted is counted by ten seconds
_NOW_S, _MINUTE_S = 10.0, 60.0
#: batches that are over are shown for this long
_OVER_S = 300
#: rows of each table; a terminal has few lines
_MOST = 8


def frame(view: View, most: int = _MOST) -> RenderableType:
    """Return everything as tables, each with `most` rows at most; columns that do not fit are cut at their ends."""
    parts = [_head(view), _workers(view, most), _queues(view, most), *_batches(view, most), _errors(view)]
    return Group(*parts)


def _head(view: View) -> Text:
    words = [
        f"{datetime.fromtimestamp(view.now_s, UTC):%H:%M:%S} UTC",
        f"closed {_rate(view.rate(_NOW_S))}/s now, {_rate(view.rate(_MINUTE_S))}/s over a minute",
    ]
    words += [] if not view.inbox else [f"inbox {view.inbox:,}"]
    words += [] if view.memory is None else [f"Redis {view.memory:.0%} of maxmemory"]
    return Text("  ".join(words), style="bold")


def _workers(view: View, most: int) -> RenderableType:
    if not view.workers:
        return Text("\nno worker is up: start one with `vqa worker`", style="red")
    rows = [_worker(worker) for worker in view.workers[:most]]
    return Group("", _table(("WORKER", "MODEL"), ("SLOTS", "HELD", "ANSWERS/S"), rows), *_more(view.workers, most))


def _worker(worker: WorkerInfo) -> Sequence[str]:
    about = worker.about
    slots, leased, answered = (_number(about.get(name)) for name in ("slots", "leased", "answered_1m"))
    # a worker holds some jobs more than slots, whose images are decoded meanwhile
    used = "-" if leased is None or slots is None else f"{min(leased, slots)}/{slots}"
    shown = [used, "-" if leased is None else str(leased), "-" if answered is None else _rate(answered / 60)]
    return [worker.name, str(about.get("model") or "-"), *shown]


def _queues(view: View, most: int) -> RenderableType:
    # the two lanes always; those of a model while there is something to see
    shown = [queue for queue in view.queues if queue.model is None or not queue.is_idle]
    numbers = ("WAITING", "QUEUED", "LEASED", "DELAYED", "OLDEST", "/S NOW", "/S 1 MIN")
    return Group("", _table(("LANE",), numbers, [_queue(queue) for queue in shown[:most]]), *_more(shown, most))


def _queue(queue: QueueView) -> Sequence[str]:
    name = queue.lane if queue.model is None else f"{queue.lane} {queue.model}"
    counts = [f"{number:,}" for number in queue.jobs.values()]
    oldest = "-" if queue.oldest_s is None else span(queue.oldest_s)
    return [name, *counts, oldest, *(_rate(queue.closed.mean(seconds)) for seconds in (_NOW_S, _MINUTE_S))]


def _batches(view: View, most: int) -> Iterator[RenderableType]:
    shown = [state for state in view.batches if not state.is_over or _ended(state) > (view.now_s - _OVER_S) * 1000]
    if not shown:
        return
    rows = [_batch(state, view) for state in shown[:most]]
    table = _table(("BATCH", "TENANT"), ("DONE", "ROWS", "FAILED"), rows)
    yield Group("", table, *_more(shown, most))


def _batch(state: BatchState, view: View) -> Sequence[str]:
    prediction = view.predictions.get(state.id)
    end = (
        state.status.replace("_", " ")
        if state.is_over or prediction is None
        else ends(prediction).removeprefix("ends about ")
    )
    done = f"{state.done / state.rows:.0%}" if state.rows else "-"
    return [state.id, state.tenant or "-", done, f"{state.rows:,}", f"{state.failed:,}", end]


def _ended(state: BatchState) -> int:
    return max(state.times.values(), default=0)


def _errors(view: View) -> Text:
    named = ", ".join(f"{code} {count:,}" for code, count in sorted(view.errors.items(), key=lambda item: -item[1]))
    words = Text(f"\nerrors in {ERROR_MINUTES} min: ").append(named or "none", style="red" if named else "")
    words.append(f"\ndead letters: {'unknown' if view.dead is None else f'{view.dead:,}'}")
    return words.append("; see `vqa dlq list`") if view.dead else words


def _table(texts: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with columns of texts, then of numbers; a further cell of the rows is their end.

    On a narrow terminal texts and headings are cut, numbers never: 3,6... would be another one.
    """
    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    for name in texts:
        table.add_column(name, no_wrap=True, min_width=6)
    for place, name in enumerate(numbers, len(texts)):
        table.add_column(name, no_wrap=True, justify="right", min_width=max(len(row[place]) for row in rows))
    if len(rows[0]) > len(texts) + len(numbers):
        table.add_column("END", no_wrap=True, min_width=9)
    for row in rows:
        table.add_row(*row)
    return table


def _more(shown: Sequence[object], most: int) -> Iterator[Text]:
    if len(shown) > most:
        yield Text(f"and {len(shown) - most} more", style="dim")


def _rate(jobs_s: float) -> str:
    return f"{jobs_s:,.1f}" if jobs_s < 100 else f"{jobs_s:,.0f}"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
