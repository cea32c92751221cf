"""Several gateway processes on one socket: starts them, restarts those that die or hang, and ends them in order.

uvicorn's own supervisor is not used: its processes outlive a parent that is killed, and it waits for ever for one that
does not end.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

from producer.gateway.process.lifeline import DESCRIPTOR
from producer.process import INTERRUPTED, USAGE
from vqa.gateway_settings import GatewaySettings

log = logging.getLogger(__name__)

#: between two looks at the processes
_LOOK_S = 0.1
#: a look that comes this much late means that the parent itself was stopped
_LATE_S = 1.0
#: a process beats every second once it serves
_SILENCE_S = 30.0
#: for a process to import its code and serve
_START_S = 60.0
#: the first pause before a restart; each failure in a row doubles it, until the process has lived for _STABLE_S
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STABLE_S = 60.0
#: failures in a row of a process that never served, after which the gateway ends
_MAX_FAILURES = 5
#: beyond VQA_GATEWAY_DRAIN_S, for what a process does after it
_END_S = 10.0


class GatewayProcess:
    """One of the processes, which is started again after each end."""

    def __init__(self, number: int, listening: socket.socket) -> None:
        self.number = number
        self._listening = listening
        self.failures = 0
        #: monotonic
        self.next_start = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._link, child_end = socket.socketpair()
        self._link.setblocking(False)
        link, listening = child_end.fileno(), self._listening.fileno()
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "producer.gateway.process.run", str(listening)],
                env={**os.environ, DESCRIPTOR: str(link)},
                pass_fds=(link, listening),
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches the parent only, which decides what it means
                process_group=0,
            )
        self.started = self.heard = time.monotonic()
        self.serves = False

    def read_heartbeats(self) -> float:
        """Return the seconds since the last heartbeat."""
        with suppress(OSError):
            if self._link.recv(1024):
                self.heard, self.serves = time.monotonic(), True
        return time.monotonic() - self.heard

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def ended(self, status: int) -> None:
        """Plan the next start."""
        self._link.close()
        self.process = None
        stable = self.serves and time.monotonic() - self.started > _STABLE_S
        self.failures = 1 if stable else self.failures + 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10))
        self.next_start = time.monotonic() + pause_s
        log.error("process %d ended with status %d; restarting in %.1f s", self.number, status, pause_s)


class Processes:
    """All processes of one gateway."""

    def __init__(self, settings: GatewaySettings, listening: socket.socket) -> None:
        self._drain_s = settings.drain_s
        self._listening = listening
        self._processes = [GatewayProcess(number, listening) for number in range(1, settings.processes + 1)]
        self._stopping = threading.Event()
        self._signals: list[int] = []

    def run(self) -> int:
        """Supervise until a signal, or until the processes cannot run; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        status, looked_at = None, time.monotonic()
        try:
            while status is None and not self._stopping.wait(_LOOK_S):
                late = time.monotonic() - looked_at > _LOOK_S + _LATE_S
                looked_at = time.monotonic()
                status = next((end for each in self._processes if (end := self._look(each, late)) is not None), None)
            self._listening.close()
            self._stop()
        finally:
            for process in self._processes:
                process.signal(signal.SIGKILL)
        if status is not None:
            return status
        return INTERRUPTED if self._signals[0] == signal.SIGINT else 0

    def _look(self, each: GatewayProcess, late: bool) -> int | None:
        """Look after one process; return an exit status if the whole gateway has to end."""
        if each.process is None:
            if time.monotonic() >= each.next_start:
                each.start()
            return None
        status, silent_s = each.process.poll(), each.read_heartbeats()
        if status is None:
            if late:
                each.heard = time.monotonic()
            elif silent_s > (_SILENCE_S if each.serves else _START_S):
                log.error("process %d shows no sign of life for %.0f s and is killed", each.number, silent_s)
                each.signal(signal.SIGKILL)
            return None
        if status == USAGE:
            return USAGE
        each.ended(status)
        if not each.serves and each.failures >= _MAX_FAILURES:
            log.critical("process %d cannot start, as its log lines above say; the gateway ends", each.number)
            return 1
        return None

    def _stop(self) -> None:
        """End the processes: at once if a second signal arrives, else when their requests have ended."""
        self._send(signal.SIGTERM)
        until, forced = time.monotonic() + self._drain_s + _END_S, False
        while self._running() and time.monotonic() < until:
            if len(self._signals) > 1 and not forced:
                forced = True
                until = time.monotonic() + 1
                self._send(signal.SIGTERM)
            time.sleep(_LOOK_S / 2)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.signal(number)

    def _running(self) -> bool:
        return any(each.process is not None and each.process.poll() is None for each in self._processes)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)
        self._stopping.set()
