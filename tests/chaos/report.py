"""The report of a failed run: histories of the jobs concerned, and the logs to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.evidence import Evidence

#: jobs whose history is printed; for others only the violation is
_MAX_HISTORIES = 10


def lines(evidence: Evidence, violations: Sequence[tuple[str | None, str]], folder: Path) -> Iterator[str]:
    """Yield the lines of the report; none if nothing is wrong."""
    reported: set[str] = set()
    for id, text in violations:
        yield f"WRONG: {id + ': ' if id else ''}{text}"
        if id and id not in reported and len(reported) < _MAX_HISTORIES:
            reported.add(id)
            yield from (f"    {line}" for line in _history(evidence, id))
    if violations:
        yield f"{len(violations)} promises were broken; seed {evidence.plan.seed}, logs and records are in {folder}"


def _history(evidence: Evidence, id: str) -> Iterator[str]:
    """Yield everything known about one job, sorted by time."""
    happened: list[tuple[float, str]] = []
    history = evidence.histories.get(id)
    for event in history.events if history else ():
        happened.append((event["at"], json.dumps({key: event[key] for key in event if key not in ("id", "at")})))
    pids = set()
    for run in evidence.runs.get(id, ()):
        pids.add(run.pid)
        end = "no end seen" if run.end is None else f"until {run.end:.2f}"
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
