"""Starts one worker process a card, one after another, restarts the ones that die, and gives up honestly."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Literal

from workers.cards import pinned
from workers.settings import WorkerSettings
from workers.supervisor_link import EXIT_NEVER_READY, READY, environment

log = logging.getLogger(__name__)

#: between the end of a worker and its next start: 1 s, doubled each time in a row, at most this
_LONGEST_PAUSE_S = 30.0
#: a worker that was ready for so long starts its count of restarts anew
_STEADY_S = 300.0
#: a drained worker has so much longer than VQA_DRAIN_S before it is killed
_KILL_AFTER_S = 15.0

State = Literal["starting", "ready", "ended", "given up"]


@dataclass
class Card:
    """One card and the process that owns it."""

    number: int | None
    name: str
    process: subprocess.Popen[bytes] | None = None
    link: socket.socket | None = None
    state: State = "ended"
    #: why it was given up
    reason: str = ""
    #: ends in a row
    failures: int = 0
    #: points on `time.monotonic()`'s clock
    started: float = 0.0
    next_start: float = 0.0


class Supervisor:
    """The workers of one machine. `run` is the whole of it."""

    def __init__(self, cards: list[int | None], name: str | None, settings: WorkerSettings) -> None:
        self._settings = settings
        self._cards = [Card(card, _node_name(card, name, len(cards))) for card in cards]
        self._stopping = threading.Event()
        self._signals = 0

    def run(self) -> int:
        """Until stopped by a signal (0 when drained), or until every card is given up (1)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stopping.is_set() and any(card.state != "given up" for card in self._cards):
                for card in self._cards:
                    self._look_after(card)
                self._stopping.wait(0.2)
            return self._stop()
        finally:
            for card in self._cards:
                if card.process is not None and card.process.poll() is None:
                    card.process.kill()

    def _look_after(self, card: Card) -> None:
        now = time.monotonic()
        if card.state == "ended" and now >= card.next_start and not self._someone_starts():
            self._start(card)
        elif card.state == "starting":
            self._await_ready(card, now)
        elif card.state == "ready" and card.process is not None and card.process.poll() is not None:
            if now - card.started > _STEADY_S:
                card.failures = 0
            self._ended(card, f"ended with status {card.process.returncode}")

    def _someone_starts(self) -> bool:
        # loading takes the machine's memory and disk: two at once are slower than one after the other
        return any(card.state == "starting" for card in self._cards)

    def _start(self, card: Card) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", f"{card.name}@%h"]
        command += ["--loglevel", self._settings.log_level, "--without-gossip", "--without-mingle"]
        with theirs:
            card.process = subprocess.Popen(
                command,
                env={**os.environ, **pinned(card.number), **environment(theirs)},
                pass_fds=[theirs.fileno()],
                # a Ctrl-C in the terminal is for the supervisor, which drains its workers
                process_group=0,
            )
        card.link, card.state, card.started = ours, "starting", time.monotonic()
        log.info("%s: starting, process %d", card.name, card.process.pid)

    def _await_ready(self, card: Card, now: float) -> None:
        assert card.process is not None
        assert card.link is not None
        said = card.link.recv(65536).decode().strip() if select.select([card.link], [], [], 0)[0] else ""
        if said == READY:
            card.state = "ready"
            log.info("%s: ready after %.1f s", card.name, now - card.started)
        elif said:
            self._end(card.process)
            self._give_up(card, said)
        elif card.process.poll() is not None:
            status = card.process.returncode
            if status == EXIT_NEVER_READY:
                self._give_up(card, f"ended with status {status} before it was ready")
            else:
                self._ended(card, f"ended with status {status} before it was ready")
        elif now - card.started > self._settings.ready_timeout_s:
            self._end(card.process, grace_s=0)
            self._give_up(card, f"not ready after {self._settings.ready_timeout_s:.0f} s (VQA_READY_TIMEOUT_S)")

    def _end(self, process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ended(self, card: Card, how: str) -> None:
        card.failures += 1
        if card.failures > self._settings.restarts:
            self._give_up(card, f"{how}, {card.failures} times in a row (VQA_RESTARTS)")
            return
        pause_s = min(_LONGEST_PAUSE_S, 2.0 ** (card.failures - 1))
        card.state, card.next_start = "ended", time.monotonic() + pause_s
        log.error("%s: %s; starting again in %.0f s", card.name, how, pause_s)

    def _give_up(self, card: Card, reason: str) -> None:
        card.state, card.reason = "given up", reason
        log.critical("%s: given up: %s", card.name, reason)

    def _stop(self) -> int:
        if not self._stopping.is_set():
            log.critical("no worker is left: %s", "; ".join(f"{card.name}: {card.reason}" for card in self._cards))
            return 1
        running = [card.process for card in self._cards if card.process is not None and card.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._settings.drain_s + _KILL_AFTER_S
        while self._signals < 2 and time.monotonic() < until and any(process.poll() is None for process in running):
            time.sleep(0.05)
        killed = [process for process in running if process.poll() is None]
        for process in killed:
            process.kill()
            process.wait()
        log.info("stopped%s", f"; {len(killed)} workers were killed" if killed else "")
        return 0

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._stopping.set()


def _node_name(card: int | None, name: str | None, cards: int) -> str:
    own = "cpu" if card is None else f"card{card}"
    if name is None:
        return own
    return name if cards == 1 else f"{name}-{own}"
