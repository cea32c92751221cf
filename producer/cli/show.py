"""What `vqa` prints: text for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from producer.client.states import JobState
from vqa.jobs.lane import Lane
from vqa.ledger.ledger import STATES
from vqa.ledger.records import State, WorkerInfo
from vqa.rollout import PROCESS


def columns(rows: Iterable[Sequence[object]]) -> str:
    """Align rows in columns; None is shown as a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def states(found: Mapping[str, JobState], as_json: bool) -> str:
    if as_json:
        return "\n".join(json.dumps(asdict(state)) for state in found.values())
    head = ("ID", "STATE", "LANE", "ATTEMPT", "WORKER", "TIME LEFT", "ERROR")
    rows = (
        (job.id, job.state.replace("_", " "), job.lane, job.attempt, job.worker, _seconds(job.remaining_s), job.error)
        for job in found.values()
    )
    return columns([head, *rows])


def overview(
    counts: Mapping[Lane, Mapping[State, int]], inbox: int, workers: Sequence[WorkerInfo], as_json: bool
) -> str:
    """Count the open jobs by lane and the entries of the inbox, and list the workers that are up."""
    if as_json:
        about: dict[str, Any] = {"lanes": counts, "inbox": inbox}
        about["workers"] = {worker.name: dict(worker.about) for worker in workers}
        return json.dumps(about)
    lanes = columns(
        [("LANE", "WAITING", "QUEUED", "LEASED", "DELAYED")]
        + [(lane, *(states[state] for state in STATES)) for lane, states in counts.items()]
    )
    if inbox:
        lanes += f"\n\nentries in the inbox that are no jobs yet: {inbox}"
    # how it scales images, and which process it is, are for programs
    up = [(worker.name, *(f"{name}={_shown(value)}" for name, value in _about(worker).items())) for worker in workers]
    return lanes + "\n\n" + ("\n".join("  ".join(row) for row in up) if up else "no worker is up")


def _about(worker: WorkerInfo) -> dict[str, Any]:
    """Return what people want to know of a worker; of the names that it serves only those that were given to it."""
    hidden = {"fit", PROCESS} | ({"models"} if worker.about.get("models") == [worker.about.get("model")] else set())
    return {name: value for name, value in worker.about.items() if name not in hidden}


def _shown(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _seconds(left_s: float | None) -> str | None:
    return None if left_s is None else f"{left_s:.0f} s"


def schemas() -> str:
    """Return the JSON Schemas of jobs, answers and outcomes as one document."""
    from vqa.answer import Answer
    from vqa.jobs.job import Job
    from vqa.outcome_schema import outcome_schema

    found = {"job": Job.model_json_schema(), "answer": Answer.model_json_schema(), "outcome": outcome_schema()}
    return json.dumps(found, indent=2)
