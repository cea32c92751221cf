"""The process of an engine as its worker starts, describes and ends it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from workers.child_process import ChildProcess, describe_exit

#: seconds for the process to end once the worker's end of the link is closed; then it is killed
END_S = 2.0

#: seconds for a process that has closed its end of the link to end: the driver frees the card's memory first
EXIT_S = 10.0


class EngineChild(ChildProcess):
    """A process that runs `workers.engine.process.child`."""

    def __init__(self, pass_fds: Sequence[int]) -> None:
        """Start it; it keeps the descriptors `pass_fds` open until it ends. Raises OSError."""
        super().__init__(["workers.engine.process.child"], _environment(), pass_fds)

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, its own fault or not."""
        return self.status is not None and self.status < 0

    def describe_end(self) -> str:
        """Say how the process ended; it has closed its end of the link."""
        if not self.wait(EXIT_S):
            return "closed its connection"
        assert self.status is not None
        return describe_exit(self.status)

    def stop(self) -> None:
        """Close the link, which ends the process; kill it if it hangs."""
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        if not self.wait(END_S):
            self.kill()
            self.wait(EXIT_S)


def _environment() -> dict[str, str]:
    """Let the child import from where this process does, and warn of the same."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": ",".join(sys.warnoptions)}
