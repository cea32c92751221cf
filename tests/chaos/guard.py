"""Processes that must not outlive this one, not even when it is killed: a small program of its own ends them.

`producer.demo.child.Child` puts a guard of its own before each child and so hides the child's process id; here
processes are stopped, continued and killed by their id, so one guard stands beside all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self


class Guard:
    """A context manager; what is watched when it ends, or when this process does, is killed."""

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        # a session of its own: a Ctrl-C in the terminal is not for the guard
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def watch(self, pid: int) -> None:
        """Kill this process if it is there when we are gone."""
        self._say(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """It has ended: its number may be another's soon."""
        self._say(f"-{pid}\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin
        with self._lock:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def _main() -> None:
    watched: set[int] = set()
    for line in sys.stdin:
        (watched.add if line[0] == "+" else watched.discard)(int(line[1:]))
    for pid in watched:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main()
