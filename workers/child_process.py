"""A child process that runs a Python module, with a socket pair between it and its parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

#: number of the child's end of the socket pair, in the child's environment; not a setting
LINK_FD = "_VQA_LINK_FD"


class ChildProcess:
    """A process `python -m` with these arguments; `link` is the parent's end of a socket pair with it.

    The child runs in a process group of its own, so a Ctrl-C in the terminal reaches its parent only.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        output: IO[bytes] | None = None,
    ) -> None:
        """Start the process. Raises OSError."""
        self.link, child_end = socket.socketpair()
        fd = child_end.fileno()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**environment, LINK_FD: str(fd)},
                pass_fds=[fd, *pass_fds],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        except OSError:
            self.link.close()
            raise
        finally:
            child_end.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while the process runs; a negative one is the signal that killed it."""
        return self._process.poll()

    @property
    def ended(self) -> bool:
        return self.status is not None

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the process to end; return whether it has."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.ended

    def end(self) -> None:
        """Kill the process, wait until it is gone and close the link."""
        self.kill()
        self.wait()
        self.link.close()


def inherited_link() -> socket.socket | None:
    """Return this process's end of the link to its parent; None unless a `ChildProcess` started it."""
    fd = os.environ.pop(LINK_FD, None)
    if fd is None:
        return None
    link = socket.socket(fileno=int(fd))
    link.set_inheritable(False)
    return link


def describe_exit(status: int) -> str:
    """Put an exit status into words: `was killed by SIGSEGV` or `exited with status 3`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
