"""A process that this one starts and that never outlives it, not even when this one is killed with SIGKILL.

Between the two stands a guard: this same file, run as a small program in a session of its own. The guard holds one
end of a pipe whose other end only this process has; when that closes, for whatever reason, the guard ends the child,
removes its folder and goes. PR_SET_PDEATHSIG would need code between fork and exec in a process with threads, is sent
when the starting thread ends rather than the process, and removes no folder. The session keeps the terminal's Ctrl-C
away from the child, so that whoever started it decides in which order things stop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


class Child:
    """A running child. Its output goes to `log`; `folder`, if given, is removed when the child has ended."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self._grace_s = grace_s
        # -I -S: the guard needs the standard library alone and starts in hundredths of a second
        guard = [sys.executable, "-I", "-S", __file__, str(grace_s), str(folder or "")]
        self._process = subprocess.Popen(
            [*guard, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def code(self) -> int | None:
        """The child's exit code, 128 + the number for a signal; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end, wait for the grace, end it and what it started by force. Does nothing the second time."""
        lifeline = self._process.stdin
        if lifeline is not None and not lifeline.closed:
            lifeline.close()
        try:
            # the guard needs a moment more than the child's grace
            self._process.wait(self._grace_s + 5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _end(child: subprocess.Popen[bytes], grace_s: float, forced: threading.Event) -> None:
    # nothing is ever written to the pipe: the read returns when the other side is gone
    os.read(0, 1)
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        forced.set()
        child.kill()


def _guard(grace_s: float, folder: str, command: Sequence[str]) -> int:
    forced = threading.Event()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_end, args=(child, grace_s, forced), daemon=True).start()
        code = child.wait()
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    # what the child started and left is in the guard's group: asked to end, unless its turn for that is over
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGKILL if forced.is_set() else signal.SIGTERM)
    return code


if __name__ == "__main__":
    exit_code = _guard(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
    # a thread still reads the pipe; 128 + signal as a shell reports it
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)
