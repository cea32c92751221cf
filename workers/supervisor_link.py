"""The line between a worker process and the supervisor that started it: how starting went, and whether it still lives.

A socket pair. The worker writes one line (`ready`, or why it will never be); when the supervisor is gone, however it
went, the worker's end reads end-of-file and the worker drains as on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import threading

#: not a setting: the supervisor sets it for its own child
_VARIABLE = "_VQA_SUPERVISOR_FD"

READY = "ready"

#: exit status of a worker that would fail the same way again (sysexits.h: EX_CONFIG)
EXIT_NEVER_READY = 78


def environment(child_end: socket.socket) -> dict[str, str]:
    """What the child needs in its environment; pass the descriptor on as well."""
    return {_VARIABLE: str(child_end.fileno())}


class SupervisorLink:
    """The worker's end; does nothing where no supervisor started this process."""

    def __init__(self) -> None:
        number = os.environ.pop(_VARIABLE, None)
        self._socket = socket.socket(fileno=int(number)) if number else None

    def watch(self) -> None:
        """Drain when the supervisor is gone."""
        if self._socket is not None:
            self._socket.set_inheritable(False)
            threading.Thread(target=self._wait_for_end, name="supervisor-link", daemon=True).start()

    def say(self, line: str) -> None:
        """Tell the supervisor how starting went."""
        if self._socket is not None:
            self._socket.sendall(line.replace("\n", " ").encode() + b"\n")

    def _wait_for_end(self) -> None:
        assert self._socket is not None
        while self._socket.recv(1024):
            continue
        os.kill(os.getpid(), signal.SIGTERM)
