"""`vqa status BATCH`: a batch as it stands, or as it goes on until it is over."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.live import Live

from producer.cli import show_batch
from producer.client.batches import Batch
from producer.exit_status import NOT_ALL
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
