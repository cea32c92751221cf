"""How `vqa status JOB` shows what happened to the job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from producer.cli import show
from producer.client.states import JobState
from producer.client.timeline import Timeline


def job(state: JobState, timeline: Timeline, as_json: bool) -> str:
    """Return where a job stands and what happened to it: lines for people, or one line of JSON."""
    if as_json:
        return _json(state, timeline)
    lines = list(_lines(timeline))
    return "\n".join([show.states({state.id: state}, as_json=False), *([""] if lines else []), *lines])


def _json(state: JobState, timeline: Timeline) -> str:
    told = asdict(timeline)
    told["events"] = [{"at": each.at.isoformat(timespec="milliseconds"), "what": each.what} for each in timeline.events]
    del told["id"]
    return json.dumps(asdict(state) | {"timeline": told})


def _lines(timeline: Timeline) -> Iterator[str]:
    """Yield the time of each event in UTC, the seconds since the one before, and what happened."""
    before = None
    for event in timeline.events:
        since = f"{(event.at - before).total_seconds():+.3f} s" if before else ""
        yield f"{event.at:%Y-%m-%d %H:%M:%S}.{event.at.microsecond // 1000:03d}  {since:>12}  {event.what}"
        before = event.at
    if timeline.stages:
        yield f"stages: {_stages(timeline.stages)}"
    if timeline.webhook:
        yield f"webhook: {timeline.webhook}"
    if timeline.trace_id:
        yield f"trace: {timeline.trace_id}"


def _stages(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_s').replace('_', ' ')} {seconds:.3f} s" for name, seconds in stages.items())
