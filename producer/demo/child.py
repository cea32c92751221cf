"""Child processes that never outlive their parent, even if the parent is killed with SIGKILL.

A guard stands between the two: this file, run as a small program in its own session. The guard reads a pipe whose other
end only the parent holds; when that closes, for whatever reason, the guard stops the child, removes its folder and
exits. PR_SET_PDEATHSIG is no alternative: it needs code between fork and exec in a process with threads, it is sent
when the starting thread ends rather than the process, and it removes no folder. The session keeps the terminal's Ctrl-C
away from the child, so that the parent decides in which order processes stop.
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
    """A running child. Its output goes to `log`; `folder` is removed when the child has exited."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self._grace_s = grace_s
        # -I -S: the guard needs only the standard library, and starts in hundredths of a second
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
        """Return the child's exit code, 128 + number after a signal, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Terminate the child, and after `grace_s` kill it and its descendants. Calling it again does nothing."""
        lifeline = self._process.stdin
        if lifeline is not None and not lifeline.closed:
            lifeline.close()
        try:
            # the guard needs a little longer than the child
            self._process.wait(self._grace_s + 5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _end(child: subprocess.Popen[bytes], grace_s: float, forced: threading.Event) -> None:
    # nothing is ever written to the pipe: the read returns when the parent's end is closed
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
    # processes that the child left behind are in the guard's process group
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGKILL if forced.is_set() else signal.SIGTERM)
    return code


if __name__ == "__main__":
    exit_code = _guard(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
    # _exit, because a thread still reads the pipe; 128 + signal, as shells report it
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)
