"""The parent's side of a process that measures one setting; the child's side is `workers.tune.trial_child`."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from workers.child_process import ChildProcess, describe_exit


@dataclass(frozen=True, slots=True)
class Setting:
    """The numbers that a trial measures."""

    slots: int
    #: None is half the slots
    microbatch: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        microbatch = {} if self.microbatch is None else {"VQA_MICROBATCH": str(self.microbatch)}
        return {"VQA_SLOTS": str(self.slots), **microbatch}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.environment.items())


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a setting achieves with all of its slots busy."""

    #: jobs per second
    rate: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Workload:
    """The jobs that every setting gets."""

    images: Sequence[str]
    question: str
    max_new_tokens: int
    #: None is three per slot
    jobs: int | None = None


def run_trial(
    setting: Setting, workload: Workload, environment: Mapping[str, str], report: Callable[[str], None]
) -> Measurement | str:
    """Measure a setting, or return one line that says why that is not possible.

    `report` gets lines about the progress. An exception raised in here ends the trial's process.
    """
    jobs = workload.jobs or 3 * setting.slots
    arguments = ["workers.tune.trial_child", "--slots", str(setting.slots), "--jobs", str(jobs)]
    arguments += [f"--question={workload.question}", "--max-new-tokens", str(workload.max_new_tokens)]
    arguments += ["--", *workload.images[:jobs]]
    with tempfile.TemporaryFile() as log:
        child = ChildProcess(arguments, {**os.environ, **environment, **setting.environment}, output=log)
        try:
            return _read_events(child.link, setting, jobs, report) or _failure(child, log)
        finally:
            child.end()


def _read_events(
    link: socket.socket, setting: Setting, jobs: int, report: Callable[[str], None]
) -> Measurement | str | None:
    """Return the result or the error; None if the process ended without either."""
    report(f"{setting}: loading")
    with link.makefile("rb") as lines:
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            if "error" in event:
                return str(event["error"])
            if "rate" in event:
                return Measurement(**event)
            if "loaded_s" in event:
                report(f"{setting}: loaded in {event['loaded_s']:.0f} s, warming up")
            else:
                report(f"{setting}: {event['answered']} of {jobs} jobs answered")
    return None


def _failure(child: ChildProcess, log: IO[bytes]) -> str:
    child.wait()
    assert child.status is not None
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return f"its process {describe_exit(child.status)}: {lines[-1] if lines else 'no output'}"
