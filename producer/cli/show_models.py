"""What `vqa models` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from producer.cli.show import columns
from producer.client.models import ModelState
from vqa.jobs.lane import LANES


def models(found: Sequence[ModelState], as_json: bool) -> str:
    if as_json:
        return json.dumps([asdict(model) for model in found])
    if not found:
        return "no model is served"
    head = ("MODEL", "WORKERS", "SLOTS", "INTERACTIVE", "BULK", "RUNNING", "OLDEST", "CANARY")
    table = columns([head, *map(_row, found)])
    down = [model.name for model in found if not model.workers]
    return table + "".join(f"\n\n{name}: no worker is up; its jobs wait" for name in down)


def _row(model: ModelState) -> tuple[object, ...]:
    states = [model.counts[lane] for lane in LANES]
    waiting = [sum(count for state, count in counts.items() if state != "leased") for counts in states]
    oldest_s = max(model.oldest_s.values())
    canary = f"{model.canary.percent:g} % to {model.canary.model}" if model.canary else None
    running = sum(counts["leased"] for counts in states)
    return model.name, len(model.workers), model.slots, *waiting, running, f"{oldest_s} s" if oldest_s else None, canary
