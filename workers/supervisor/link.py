"""A worker's link to the supervisor that started it: the result of starting, then heartbeats.

The link is a socket pair. The worker writes WAITS while Redis does not answer, then one line, READY or why it will
never be ready, and then an empty line each time its watchdog has checked the engine. Before it drains for a rollout it
writes what is asked of its card. When the supervisor ends, however it ends, the worker reads end-of-file and drains as
on SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

from workers.child_process import inherited_link

READY = "ready"

#: in place of an empty line: the worker has answered a job since it was ready, so its card works
ANSWERED = b"+\n"

#: in place of an empty line, before READY: the worker waits for Redis, and has not begun to load its model
WAITS = b"?\n"

#: before a request in JSON: the worker is about to drain, and its card's next process is to load another model
RESTART = b"restart "

#: exit status of a worker that would fail again in the same way (sysexits.h: EX_CONFIG)
EXIT_NEVER_READY = 78

#: exit status of a worker whose engine crashed or hung (sysexits.h: EX_SOFTWARE, EX_OSERR)
EXIT_CRASHED = 70
EXIT_HUNG = 71


class SupervisorLink:
    """The worker's end; does nothing in a process that no supervisor started."""

    def __init__(self) -> None:
        self._socket = inherited_link()

    @property
    def fds(self) -> tuple[int, ...]:
        """The link's descriptor, for a child that uses the card, too: the supervisor sees when none has it any more."""
        return () if self._socket is None else (self._socket.fileno(),)

    @property
    def supervised(self) -> bool:
        """Whether a supervisor started this process."""
        return self._socket is not None

    def watch(self) -> None:
        """Send this process SIGTERM when the supervisor is gone."""
        if self._socket is not None:
            threading.Thread(target=self._wait_for_end, name="supervisor-link", daemon=True).start()

    def report(self, line: str) -> None:
        """Send READY, or why this worker will never be ready."""
        if self._socket is not None:
            self._socket.sendall(line.replace("\n", " ").encode() + b"\n")

    def heartbeat(self, answered: bool = False) -> None:
        """Send a sign of life, and whether a job has been answered. Never blocks or raises."""
        self._send(ANSWERED if answered else b"\n")

    def waits(self) -> None:
        """Say that this worker waits for Redis. Never blocks or raises."""
        self._send(WAITS)

    def restart(self, request: str) -> bool:
        """Ask for another model after this process; return whether that was sent. Never blocks or raises."""
        return self._send(RESTART + request.encode() + b"\n")

    def _send(self, line: bytes) -> bool:
        if self._socket is None:
            return False
        # The buffer is full when the supervisor is stopped: what it has yet to read says the same, if this is a
        # heartbeat. A line this short is sent whole or not at all.
        with contextlib.suppress(OSError):
            return self._socket.send(line, socket.MSG_DONTWAIT) == len(line)
        return False

    def _wait_for_end(self) -> None:
        assert self._socket is not None
        # a supervisor that is killed with unread data resets the connection instead
        with contextlib.suppress(OSError):
            while self._socket.recv(1024):
                continue
        os.kill(os.getpid(), signal.SIGTERM)


class FirstAnswer(threading.Event):
    """Set when the worker has answered a job, and reported at once: the worker may end before its next heartbeat."""

    def __init__(self, link: SupervisorLink) -> None:
        super().__init__()
        self._link = link

    def set(self) -> None:
        if not self.is_set():
            super().set()
            self._link.heartbeat(answered=True)
