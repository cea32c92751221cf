"""Kills processes that must not outlive this one, even if this one is killed: a small program of its own does it.

`producer.demo.child.Child` wraps each child in a guard, which hides the child's process id. The faults here need the
ids of the processes, so one guard runs beside all of them.
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
    """A context manager that kills the watched processes when it, or this process, ends."""

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        # in its own session, so that a Ctrl-C in the terminal does not reach the guard
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def watch(self, pid: int) -> None:
        """Kill this process at the end."""
        self._send(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """Stop watching a process that has ended, as its id may be reused."""
        self._send(f"-{pid}\n")

    def _send(self, line: str) -> None:
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
