"""What `vqa` prints of batches."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live

from producer.cli import show_batch
from producer.cli.show import columns
from producer.client.batches import Batch
from producer.process import NOT_ALL
from vqa.ledger.batches import BatchState

#: between two looks
_LOOK_S = 1.0


def follow(batch: Batch, watch: bool, as_json: bool) -> int:
    """Show it once, or until it is over; 3 where it is over and rows failed. Raises UnknownBatch."""
    if watch:
        state = _watch(batch, as_json)
    else:
        state = batch.state()
        print(json.dumps(asdict(state)) if as_json else show_batch.progress(state, None))
    return NOT_ALL if state.status == "failed" or (state.is_over and state.failed) else 0


def _watch(batch: Batch, as_json: bool) -> BatchState:
    """In place where stdout is a terminal, else a line a look."""
    pace = show_batch.Pace()
    in_place = sys.stdout.isatty() and not as_json
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            state = batch.state()
            rate = pace.saw(time.monotonic(), state.done)
            if in_place:
                live.update(show_batch.progress(state, rate), refresh=True)
            else:
                print(json.dumps(asdict(state)) if as_json else show_batch.one_line(state, rate), flush=True)
            if state.is_over:
                return state
            time.sleep(_LOOK_S)


#: seconds over which a rate is taken
_SPAN_S = 30.0


def batches(found: Sequence[BatchState], as_json: bool) -> str:
    """One line each; in JSON one object a line."""
    if as_json:
        return "\n".join(json.dumps(asdict(state)) for state in found)
    head = ("BATCH", "STATUS", "CREATED (UTC)", "ROWS", "DONE", "FAILED", "TENANT", "INPUT")
    rows = (
        (
            state.id,
            state.status,
            _time(state.created),
            state.total,
            state.done,
            state.failed,
            state.tenant or None,
            state.input or None,
        )
        for state in found
    )
    return columns([head, *rows])


class Pace:
    """How fast a batch goes, by what was seen of it lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, at_s: float, done: int) -> float | None:
        """Rows a second until now; None where too little was seen."""
        self._seen.append((at_s, done))
        while len(self._seen) > 2 and at_s - self._seen[0][0] > _SPAN_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (done - first) / (at_s - first_s) if at_s > first_s else None


def progress(state: BatchState, rate: float | None) -> str:
    """Where a batch stands, in a few lines."""
    lines = [f"{state.id}  {state.status.replace('_', ' ')}", one_line(state, rate)]
    lines += [f"  {code}: {count:,}" for code, count in sorted(state.codes.items())]
    if state.workers:
        most = sorted(state.workers.items(), key=lambda item: -item[1])
        lines += ["", columns([("WORKER", "ANSWERED"), *((name, f"{count:,}") for name, count in most)])]
    return "\n".join(lines)


def one_line(state: BatchState, rate: float | None) -> str:
    """The same in a line."""
    said = f"{state.done:,} of {state.total:,} rows done, {state.failed:,} failed, {state.left:,} to go"
    if rate is None or state.is_over:
        return said
    return f"{said}, {rate:,.1f} rows/s" + (f", {_span(state.left / rate)} left" if rate > 0 else "")


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
