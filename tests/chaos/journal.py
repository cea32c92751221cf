"""Reads the echo engine's journal: which process ran which job when, and which runs overlap."""

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
    """A prompt in a slot. Times are monotonic, which all processes of a machine share."""

    id: str
    pid: int
    attempt: int
    start: float
    #: None if the process ended first
    end: float | None


def read(path: Path) -> dict[str, list[Run]]:
    """Return the runs of each job, sorted by start."""
    runs: dict[str, list[Run]] = defaultdict(list)
    started: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        key = entry["id"], entry["pid"], entry["attempt"]
        if entry["event"] == "start":
            started[key].append(entry["at"])
        else:
            runs[entry["id"]].append(Run(*key, started[key].pop(0), entry["at"]))
    for key, starts in started.items():
        runs[key[0]] += [Run(*key, start, None) for start in starts]
    return {id: sorted(each, key=lambda run: run.start) for id, each in runs.items()}


class JournalTail:
    """Reads the journal as it grows; thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lock = threading.Lock()
        #: processes that started each job, and when each process last started one
        self._pids: dict[str, list[int]] = defaultdict(list)
        self._last: dict[int, float] = {}
        self._first: dict[str, int] = {}

    def first_attempt(self, id: str) -> int | None:
        """Return the attempt in which the job first got a slot; over 1 if a fault came before."""
        self._read_new_lines()
        return self._first.get(id)

    def pids_of(self, id: str) -> list[int]:
        """Return the processes that started this job, in order."""
        self._read_new_lines()
        return list(self._pids.get(id, ()))

    def last_start(self, pid: int) -> float:
        """Return when the process last started a job, or minus infinity."""
        self._read_new_lines()
        return self._last.get(pid, float("-inf"))

    def _read_new_lines(self) -> None:
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
    """Two simultaneous runs of one job; `excuse` says why the first one's worker could not prevent it, if so."""

    first: Run
    second: Run
    excuse: str | None


def overlaps(
    runs: Mapping[str, Iterable[Run]], lives: Mapping[int, Life], disturbances: Iterable[Disturbance], slack_s: float
) -> Iterator[Overlap]:
    """Yield pairs of simultaneous runs of one job in two processes.

    A worker that is stopped or cut off from Redis cannot renew its leases, so its jobs go to other workers and its
    outcomes are refused. So an overlap is excused if the second run started while the first one's worker was disturbed,
    or up to `slack_s` later: the lease may have expired by the end of the fault, and the next renewal comes within a
    third of the lease, or after a pause and a new connection. A worker that gives back its jobs and then ends may
    overlap with the runs after it (`Life.gives_back_from`).
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
    if life is not None and life.gives_back_from <= second.start:
        return "its worker was leaving"
    for each in disturbances:
        # a fault of Redis itself (no pid) excuses nothing: leases are judged only after workers could renew again
        if each.pid == first.pid and each.begin <= second.start <= each.end + slack_s:
            return f"its worker was {each.kind}"
    return None
