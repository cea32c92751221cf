"""A setting being tried out in a process of its own, as the one who started it sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tried."""

    slots: int
    #: None is half the slots
    microbatch: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say so."""
        microbatch = {} if self.microbatch is None else {"VQA_MICROBATCH": str(self.microbatch)}
        return {"VQA_SLOTS": str(self.slots), **microbatch}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.environment.items())


@dataclass(frozen=True, slots=True)
class Measured:
    """What a setting achieves with all of its slots busy."""

    #: jobs a second
    rate: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of each setting."""

    images: Sequence[str]
    question: str
    max_new_tokens: int
    #: None is three times the slots
    jobs: int | None = None

    def jobs_of(self, setting: Setting) -> int:
        """How many are timed."""
        return self.jobs or 3 * setting.slots


def try_out(
    setting: Setting, load: Load, environment: Mapping[str, str], tell: Callable[[str], None]
) -> Measured | str:
    """Measure, or say in a line why it cannot be; `tell` is told how far it is. Whatever is raised here ends it."""
    jobs = load.jobs_of(setting)
    command = [sys.executable, "-m", "workers.tune.trial_child", "--slots", str(setting.slots), "--jobs", str(jobs)]
    command += [f"--question={load.question}", "--max-new-tokens", str(load.max_new_tokens)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [*command, "--", *load.images[:jobs]],
            env={**os.environ, **environment, **setting.environment},
            # open for as long as this process lives
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # a Ctrl-C in the terminal is for this process alone
            start_new_session=True,
        )
        with child:
            try:
                return _listen(child, setting, jobs, tell) or _last_line(log, child.wait())
            finally:
                child.kill()


def _listen(
    child: subprocess.Popen[bytes], setting: Setting, jobs: int, tell: Callable[[str], None]
) -> Measured | str | None:
    """What came of it; None where it has ended without a word."""
    assert child.stdout is not None
    tell(f"{setting}: loading")
    for line in child.stdout:
        event: dict[str, Any] = json.loads(line)
        if "error" in event:
            return str(event["error"])
        if "rate" in event:
            return Measured(**event)
        if "loaded_s" in event:
            tell(f"{setting}: loaded in {event['loaded_s']:.0f} s, warming up")
        else:
            tell(f"{setting}: {event['answered']} of {jobs} jobs answered")
    return None


def _last_line(log: Any, status: int) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return f"its process ended with status {status}: {lines[-1] if lines else 'it said nothing'}"
