"""One worker process as its supervisor sees it: started, heard, signalled, and how it ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from workers.cards import Cards, pinned
from workers.supervisor.link import EXIT_CRASHED, EXIT_HUNG, EXIT_NEVER_READY, WORKED, environment

_MEANINGS = {
    EXIT_CRASHED: "its engine crashed",
    EXIT_HUNG: "its engine hung",
    EXIT_NEVER_READY: "it could not start",
}


class Child:
    """A process from its start on; `node` is the name that Celery and Flower know it by."""

    def __init__(self, node: str, cards: Cards, log_level: str) -> None:
        self._link, theirs = socket.socketpair()
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", f"{node}@%h"]
        command += ["--loglevel", log_level, "--without-gossip", "--without-mingle"]
        with theirs:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **pinned(cards), **environment(theirs)},
                pass_fds=[theirs.fileno()],
                # a Ctrl-C in the terminal is for the supervisor, which drains its workers
                process_group=0,
            )
        #: points on `time.monotonic()`'s clock: its start, and its last sign of life
        self.started = self.heard = time.monotonic()
        #: whether it has answered anything
        self.worked = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Its exit status; negative is the signal that ended it; None while it runs."""
        return self._process.poll()

    def listen(self) -> str:
        """What it has said since last time; empty where that is no more than that it lives, or nothing."""
        said = self._link.recv(65536) if select.select([self._link], [], [], 0)[0] else b""
        if said:
            self.heard = time.monotonic()
        self.worked = self.worked or WORKED in said
        return said.replace(WORKED, b"").decode().strip()

    def terminate(self) -> None:
        """Ask it to drain; the second time, to give back at once."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as soon as the kernel can: a process inside the card's driver may take its time."""
        self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within this time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.ended

    def close(self) -> None:
        """Let go of the line; a worker that still runs drains then."""
        self._link.close()

    def how_it_ended(self) -> str:
        """In words, for the log."""
        status = self.status
        if status is None:
            return "still runs"
        if status < 0:
            return f"was ended by {_signal_name(-status)}"
        meaning = _MEANINGS.get(status)
        return f"ended with status {status}" + (f" ({meaning})" if meaning else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
