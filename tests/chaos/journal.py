"""What the echo engine's journal says: which process ran which job from when to when, and where two did at once."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tests.chaos.life import Disturbance, Life


@dataclass(frozen=True)
class Run:
    """A prompt in a slot. Monotonic times, which all processes of a machine share."""

    id: str
    pid: int
    attempt: int
    start: float
    #: None where the process ended before it
    end: float | None


def read(path: Path) -> dict[str, list[Run]]:
    """The runs of each job by their start."""
    runs: dict[str, list[Run]] = defaultdict(list)
    begun: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        key = entry["id"], entry["pid"], entry["attempt"]
        if entry["event"] == "start":
            begun[key].append(entry["at"])
        else:
            runs[entry["id"]].append(Run(*key, begun[key].pop(0), entry["at"]))
    for key, starts in begun.items():
        runs[key[0]] += [Run(*key, start, None) for start in starts]
    return {id: sorted(each, key=lambda run: run.start) for id, each in runs.items()}


class Tail:
    """Reads the journal as it grows; threads may share one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lock = threading.Lock()
        #: pids that began each job, and when each process last began one
        self._pids: dict[str, list[int]] = defaultdict(list)
        self._last: dict[int, float] = {}
        self._first: dict[str, int] = {}

    def first_attempt(self, id: str) -> int | None:
        """The attempt at which the job first got into a slot; later than 1 where a fault was quicker."""
        self._read_on()
        return self._first.get(id)

    def pids_of(self, id: str) -> list[int]:
        """The processes that began this job, in order."""
        self._read_on()
        return list(self._pids.get(id, ()))

    def last_start(self, pid: int) -> float:
        """When the process last began a job; before all time where it never did."""
        self._read_on()
        return self._last.get(pid, float("-inf"))

    def _read_on(self) -> None:
        with self._lock:
            if not self._path.exists():
                return
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            whole, _, _ = text.rpartition(b"\n")
            self._offset += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                entry = json.loads(line)
                if entry["event"] == "start":
                    self._pids[entry["id"]].append(entry["pid"])
                    self._last[entry["pid"]] = entry["at"]
                    self._first.setdefault(entry["id"], entry["attempt"])


@dataclass(frozen=True)
class Overlap:
    """Two runs of one job at once; `excuse` says why the first one's worker could not know, if it could not."""

    first: Run
    second: Run
    excuse: str | None


def overlaps(
    runs: Mapping[str, Iterable[Run]], lives: Mapping[int, Life], disturbances: Iterable[Disturbance], slack_s: float
) -> Iterator[Overlap]:
    """Runs of one job in two processes that were both under way at one moment.

    A worker that is stopped or cut off from Redis cannot renew, and the job is given to another: that is what a lease
    is for, and the first one's outcome is refused. So an overlap is excused where the second run began while the first
    one's worker was disturbed, or up to `slack_s` after: when the trouble is over, the lease may have run out already,
    and the first renewal comes within a third of the lease, or after a pause and a fresh connection. A worker that
    gives its jobs back and then ends may overlap its own last moments (`Life.departs_from`).
    """
    disturbances = list(disturbances)
    for each in runs.values():
        for first, second in combinations(each, 2):
            if first.pid != second.pid and _end(first, lives) > second.start:
                yield Overlap(first, second, _excuse(first, second, lives, disturbances, slack_s))


def _end(run: Run, lives: Mapping[int, Life]) -> float:
    if run.end is not None:
        return run.end
    life = lives.get(run.pid)
    return life.end if life is not None and life.end is not None else float("inf")


def _excuse(
    first: Run, second: Run, lives: Mapping[int, Life], disturbances: Iterable[Disturbance], slack_s: float
) -> str | None:
    life = lives.get(first.pid)
    if life is not None and life.departs_from <= second.start:
        return "its worker was leaving"
    for each in disturbances:
        # trouble with Redis itself (no pid) excuses nothing: leases are not judged until workers could renew again
        if each.pid == first.pid and each.begin <= second.start <= each.end + slack_s:
            return f"its worker was {each.kind}"
    return None
