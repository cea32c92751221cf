"""The processes of a demo: each has its own log, and all are stopped together."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from producer.demo.child import Child
from vqa.errors import NotReady

#: lines of a log that are shown after a failure
_LOG_LINES = 15


class Processes:
    """A context manager that stops the processes, and deletes their logs unless `show_log` was called."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._logs = Path(tempfile.mkdtemp(prefix="vqa-demo-"))
        self._children: list[Child] = []
        self._keep = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for child in reversed(self._children):
            child.stop()
        if not self._keep:
            shutil.rmtree(self._logs, ignore_errors=True)

    def start(self, name: str, module: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Run `python -m MODULE ARGUMENTS...`; its output goes to the log `name`."""
        with (self._logs / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", *module]
            self._children.append(Child(command, log, {**os.environ, **environment}, grace_s=self._grace_s))
        return self._children[-1]

    def show_log(self, console: Console, name: str) -> None:
        """Print the end of a log, and the folder with all logs."""
        self._keep = True
        path = self._logs / f"{name}.log"
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            console.rule(f"end of {path}", align="left")
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        console.rule(f"all logs are in {self._logs}", align="left")


def await_ready(name: str, child: Child, ready: Callable[[], bool], timeout_s: float) -> float:
    """Wait until `ready()` and return the seconds it took. Raises NotReady if the child exits, or after the timeout."""
    started = time.monotonic()
    while not ready():
        if child.code() is not None:
            raise NotReady(f"{name} exited with status {child.code()} before it was ready")
        if time.monotonic() > started + timeout_s:
            raise NotReady(f"{name} was not ready within {timeout_s:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - started
