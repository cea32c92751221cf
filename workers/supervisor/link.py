"""The line between a worker process and the supervisor that started it: how starting went, and whether it still lives.

A socket pair. The worker writes one line (`ready`, or why it will never be), and an empty one each time its watchdog
has looked round; when the supervisor is gone, however it went, the worker's end reads end-of-file and the worker drains
as on SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

#: not a setting: the supervisor sets it for its own child
_VARIABLE = "_VQA_SUPERVISOR_FD"

READY = "ready"

#: in place of an empty line: the worker has answered since it was ready, so its card is of use
WORKED = b"+\n"

#: exit status of a worker that would fail the same way again (sysexits.h: EX_CONFIG)
EXIT_NEVER_READY = 78

#: exit status of a worker whose engine crashed, or hung (sysexits.h: EX_SOFTWARE, EX_OSERR)
EXIT_CRASHED = 70
EXIT_HUNG = 71


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

    def alive(self, worked: bool = False) -> None:
        """Tell the supervisor that this process runs, and whether it answered something. Never blocks or raises."""
        if self._socket is not None:
            # full where the supervisor is stopped: what it has not read yet says the same
            with contextlib.suppress(OSError):
                self._socket.send(WORKED if worked else b"\n", socket.MSG_DONTWAIT)

    def _wait_for_end(self) -> None:
        assert self._socket is not None
        # a supervisor that is killed with something unread is a connection reset, not an end of file
        with contextlib.suppress(OSError):
            while self._socket.recv(1024):
                continue
        os.kill(os.getpid(), signal.SIGTERM)
