"""A failed run, told so that somebody can find out why: each job's history, and the logs to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.evidence import Evidence

#: jobs that are told whole; of more, the complaint alone
_WHOLE = 10


def lines(evidence: Evidence, complaints: Sequence[tuple[str | None, str]], folder: Path) -> Iterator[str]:
    """Nothing where nothing is wrong."""
    told: set[str] = set()
    for id, text in complaints:
        yield f"WRONG: {id + ': ' if id else ''}{text}"
        if id and id not in told and len(told) < _WHOLE:
            told.add(id)
            yield from (f"    {line}" for line in _history(evidence, id))
    if complaints:
        yield f"{len(complaints)} promises did not hold; seed {evidence.plan.seed}, everything is in {folder}"


def _history(evidence: Evidence, id: str) -> Iterator[str]:
    """What is known of one job, by time."""
    happened: list[tuple[float, str]] = []
    history = evidence.histories.get(id)
    for event in history.events if history else ():
        happened.append((event["at"], json.dumps({key: event[key] for key in event if key not in ("id", "at")})))
    pids = set()
    for run in evidence.runs.get(id, ()):
        pids.add(run.pid)
        end = "never seen to end" if run.end is None else f"until {run.end:.2f}"
        happened.append((run.start, f"attempt {run.attempt} in process {run.pid}, {end}"))
    for life in evidence.lives:
        if life.pid in pids and life.end is not None:
            happened.append((life.end, f"{life.name} ({life.pid}) ended with {life.status}; see {life.log}"))
    for each in evidence.disturbances:
        if each.pid in pids or each.pid is None:
            happened.append((each.begin, f"process {each.pid or 'all'} {each.kind} until {each.end:.2f}"))
    yield from (f"{at:.2f} {text}" for at, text in sorted(happened))
    if id in evidence.dead:
        yield f"dead letter: {evidence.dead[id].reason}; {evidence.dead[id].history}"
    yield f"outcome at the end: {evidence.endings.get(id)}"
