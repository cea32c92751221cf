"""One worker process as its supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Mapping

from vqa.rollout import Request
from workers.cards import Cards, card_environment
from workers.child_process import ChildProcess, describe_exit
from workers.supervisor.card_model import parse_request
from workers.supervisor.link import ANSWERED, EXIT_CRASHED, EXIT_HUNG, EXIT_NEVER_READY, RESTART, WAITS

#: the Celery app of every worker
APP = "workers.app"

_MEANINGS = {
    EXIT_CRASHED: "its engine crashed",
    EXIT_HUNG: "its engine hung",
    EXIT_NEVER_READY: "it could not start",
}


class SupervisedProcess(ChildProcess):
    """A Celery worker on `cards`; `node` is its name in Celery and Flower, `variables` are for it alone."""

    def __init__(self, node: str, cards: Cards, log_level: str, variables: Mapping[str, str] | None = None) -> None:
        arguments = ["workers.celery_worker", APP, "-n", f"{node}@%h"]
        arguments += ["--loglevel", log_level, "--without-gossip", "--without-mingle"]
        super().__init__(arguments, {**os.environ, **(variables or {}), **card_environment(cards)})
        #: times of `time.monotonic()`
        self.started_at = self.last_heartbeat = time.monotonic()
        #: whether it has answered a job
        self.answered = False
        #: asks for the model of the next process
        self.request: Request | None = None
        self._unread = b""

    def read(self) -> str:
        """Return what the worker has reported since the last call; heartbeats are noted and left out."""
        received = b""
        # a process that is killed with unread data resets the connection
        with contextlib.suppress(OSError):
            received = self.link.recv(65536) if select.select([self.link], [], [], 0)[0] else b""
        if received:
            self.last_heartbeat = time.monotonic()
        *lines, self._unread = (self._unread + received).split(b"\n")
        return "\n".join(line for line in map(self._note, lines) if line)

    def _note(self, line: bytes) -> str:
        """Note a heartbeat or a request; return any other line."""
        if line == WAITS.strip():
            # how long it may take to be ready counts from when Redis answers
            self.started_at = time.monotonic()
        elif line == ANSWERED.strip():
            self.answered = True
        elif line.startswith(RESTART):
            self.request = parse_request(line.removeprefix(RESTART).decode("utf-8", "replace"))
        else:
            return line.decode("utf-8", "replace").strip()
        return ""

    def has_answered(self) -> bool:
        """Return whether it has answered a job, as far as it has reported it before it ended."""
        self.read()
        return self.answered

    def has_freed_card(self) -> bool:
        """Return whether the engine's process has ended, too; it ends after a worker that was killed."""
        try:
            while self.link.recv(65536, socket.MSG_DONTWAIT):
                continue
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def describe_end(self) -> str:
        if self.status is None:
            return "still runs"
        meaning = _MEANINGS.get(self.status)
        return describe_exit(self.status) + (f" ({meaning})" if meaning else "")
