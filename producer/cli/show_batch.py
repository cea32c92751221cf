"""What `vqa` prints about batches."""

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

from producer.cli.show import columns
from producer.client.batches import Batch
from producer.prediction import Prediction
from producer.prediction.words import ends
from vqa.ledger.batch_state import BatchState

#: seconds between two looks at a batch
_POLL_S = 1.0

#: seconds over which a rate is averaged
_SPAN_S = 30.0


def watch(batch: Batch, quiet: bool, as_json: bool) -> BatchState:
    """Show a batch until it is over: in place on a terminal, else one line per look, or nothing if `quiet`."""
    pace = Pace()
    in_place = sys.stdout.isatty() and not as_json
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            state = batch.state()
            rate = pace.rate(time.monotonic(), state.done)
            prediction = None if quiet else batch.prediction(state)
            if in_place and not quiet:
                live.update(progress(state, rate, prediction), refresh=True)
            elif not quiet:
                print(_json(state, prediction) if as_json else one_line(state, rate, prediction), flush=True)
            if state.is_over:
                return state
            time.sleep(_POLL_S)


def batch(state: BatchState, prediction: Prediction | None, as_json: bool) -> str:
    return _json(state, prediction) if as_json else progress(state, None, prediction)


def _json(state: BatchState, prediction: Prediction | None) -> str:
    told = None if prediction is None else {**asdict(prediction), "in_time": prediction.in_time}
    return json.dumps({**asdict(state), "prediction": told})


def batches(found: Sequence[BatchState], as_json: bool) -> str:
    if as_json:
        return "\n".join(json.dumps(asdict(state)) for state in found)
    head = ("BATCH", "STATUS", "CREATED (UTC)", "ROWS", "DONE", "FAILED", "TENANT", "INPUT")
    rows = (
        (row.id, row.status, _time(row.created), row.total, row.done, row.failed, row.tenant or None, row.input or None)
        for row in found
    )
    return columns([head, *rows])


class Pace:
    """Measures the recent progress of a batch."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, now_s: float, done: int) -> float | None:
        """Add a measurement; return rows per second, or None if there are too few measurements."""
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > _SPAN_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (done - first) / (now_s - first_s) if now_s > first_s else None


def progress(state: BatchState, rate: float | None, prediction: Prediction | None = None) -> str:
    lines = [f"{state.id}  {state.status.replace('_', ' ')}", one_line(state, rate)]
    lines += [ends(prediction)] if prediction else []
    lines += [f"  {code}: {count:,}" for code, count in sorted(state.codes.items())]
    if state.workers:
        busiest = sorted(state.workers.items(), key=lambda item: -item[1])
        lines += ["", columns([("WORKER", "ANSWERED"), *((name, f"{count:,}") for name, count in busiest)])]
    return "\n".join(lines)


def one_line(state: BatchState, rate: float | None, prediction: Prediction | None = None) -> str:
    counts = f"{state.done:,} of {state.rows:,} rows done, {state.failed:,} failed, {state.left:,} to go"
    words = [counts, f"{rate:,.1f} rows/s" if rate is not None and not state.is_over else ""]
    return ", ".join(filter(None, [*words, ends(prediction) if prediction else ""]))


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
