"""One worker process as its supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import select
import time

from workers.cards import Cards, card_environment
from workers.child_process import ChildProcess, describe_exit
from workers.supervisor.link import ANSWERED, EXIT_CRASHED, EXIT_HUNG, EXIT_NEVER_READY, WAITS

_MEANINGS = {
    EXIT_CRASHED: "its engine crashed",
    EXIT_HUNG: "its engine hung",
    EXIT_NEVER_READY: "it could not start",
}


class SupervisedProcess(ChildProcess):
    """A Celery worker on `cards`; `node` is its name in Celery and Flower."""

    def __init__(self, node: str, cards: Cards, log_level: str) -> None:
        arguments = ["celery", "-A", "workers.app", "worker", "-n", f"{node}@%h"]
        arguments += ["--loglevel", log_level, "--without-gossip", "--without-mingle"]
        super().__init__(arguments, {**os.environ, **card_environment(cards)})
        #: times of `time.monotonic()`
        self.started_at = self.last_heartbeat = time.monotonic()
        #: whether it has answered a job
        self.answered = False

    def read(self) -> str:
        """Return what the worker has reported since the last call; heartbeats are noted and left out."""
        received = b""
        # a process that is killed with unread data resets the connection
        with contextlib.suppress(OSError):
            received = self.link.recv(65536) if select.select([self.link], [], [], 0)[0] else b""
        if received:
            self.last_heartbeat = time.monotonic()
        if WAITS in received:
            # how long it may take to be ready counts from when Redis answers
            self.started_at = time.monotonic()
        self.answered = self.answered or ANSWERED in received
        return received.replace(ANSWERED, b"").replace(WAITS, b"").decode("utf-8", "replace").strip()

    def has_answered(self) -> bool:
        """Return whether it has answered a job, as far as it has reported it before it ended."""
        self.read()
        return self.answered

    def describe_end(self) -> str:
        if self.status is None:
            return "still runs"
        meaning = _MEANINGS.get(self.status)
        return describe_exit(self.status) + (f" ({meaning})" if meaning else "")
