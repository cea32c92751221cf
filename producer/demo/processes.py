"""The processes of a demo: each with a log of its own, awaited within a time, and stopped together."""

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

#: lines of a log that are shown when something went wrong
SHOWN = 15


class Processes:
    """A context manager. The logs are removed at the end, but for those that `show_log` has pointed to."""

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
        """`python -m` that module with its arguments; what it prints goes to the log of that name."""
        with (self._logs / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", *module]
            self._children.append(Child(command, log, {**os.environ, **environment}, grace_s=self._grace_s))
        return self._children[-1]

    def show_log(self, console: Console, name: str) -> None:
        """The end of one child's log, and the folder where the whole of each is."""
        self._keep = True
        path = self._logs / f"{name}.log"
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-SHOWN:]
            console.rule(f"end of {path}", align="left")
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        console.rule(f"all logs are in {self._logs}", align="left")


def await_ready(name: str, child: Child, ready: Callable[[], bool], timeout_s: float) -> float:
    """Wait until `ready`; the seconds it took. Raises NotReady when the child ends or the time is over."""
    began = time.monotonic()
    while not ready():
        if child.code() is not None:
            raise NotReady(f"{name} ended with status {child.code()} before it was ready")
        if time.monotonic() > began + timeout_s:
            raise NotReady(f"{name} was not ready within {timeout_s:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - began
