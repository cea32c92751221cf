"""Starts a worker process a card, one after another, restarts the ones that die or say nothing, gives up honestly.

A worker owns one card, or several where its model is spread over them.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass
from typing import Literal

from workers.cards import Cards, label
from workers.engine.runtime.heartbeat import limit_s
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.link import EXIT_NEVER_READY, READY
from workers.supervisor.worker_process import Child

log = logging.getLogger(__name__)

#: between two looks at the cards
_ROUND_S = 0.2
#: a round that comes so much later means that this process itself was stopped
_LATE_S = 1.0
#: between the end of a worker and its next start: 1 s, doubled each time in a row, at most this
_LONGEST_PAUSE_S = 30.0
#: a worker that was ready for so long, and for as long as it may hang on top, starts its count of restarts anew
_STEADY_S = 300.0
#: a worker that was ready says something every half second; one that says nothing for VQA_HANG_S, and for at least
#: this, is stopped or stuck in a call that holds the interpreter's lock
_LEAST_SILENCE_S = 10.0
#: a drained worker has so much longer than VQA_DRAIN_S before it is killed
_KILL_AFTER_S = 15.0
#: for a worker that was told a second time, to give back what it holds
_GIVE_BACK_S = 5.0
#: between the first and the second time: two signals that come at once are one
_APART_S = 0.5
#: for a process that was killed, or has said why it ends
_END_S = 10.0

State = Literal["starting", "ready", "killed", "ended", "given up"]


@dataclass
class Card:
    """One card, or several that share a model, and the process that owns it."""

    numbers: Cards
    name: str
    child: Child | None = None
    state: State = "ended"
    #: why it was killed or given up
    reason: str = ""
    #: ends in a row
    failures: int = 0
    #: points on `time.monotonic()`'s clock
    ready_at: float = 0.0
    next_start: float = 0.0


class Supervisor:
    """The workers of one machine. `run` is the whole of it."""

    def __init__(
        self, workers: list[Cards], name: str | None, settings: WorkerSettings, engine: EngineSettings
    ) -> None:
        self._settings = settings
        self._silence_s = max(_LEAST_SILENCE_S, engine.hang_s)
        self._steady_s = _STEADY_S + max(self._silence_s, limit_s("prefill", engine.hang_s))
        self._cards = [Card(cards, _node_name(cards, name, len(workers))) for cards in workers]
        self._stopping = threading.Event()
        self._signals = 0

    def run(self) -> int:
        """Until stopped by a signal (0 when drained), or until every card is given up (1)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        round_at = time.monotonic()
        try:
            while not self._stopping.is_set() and any(card.state != "given up" for card in self._cards):
                late = time.monotonic() - round_at > _ROUND_S + _LATE_S
                round_at = time.monotonic()
                for card in self._cards:
                    self._look_after(card, late)
                self._stopping.wait(_ROUND_S)
            return self._stop()
        finally:
            for child in self._running():
                child.kill()

    def _running(self) -> list[Child]:
        return [card.child for card in self._cards if card.child is not None and not card.child.ended]

    def _look_after(self, card: Card, late: bool) -> None:
        now = time.monotonic()
        if card.state == "ended" and now >= card.next_start and not self._someone_starts():
            self._start(card)
        elif card.child is None:
            return
        elif card.state == "starting":
            self._await_ready(card, card.child)
        elif card.state == "killed" and card.child.ended:
            self._ended(card, card.reason)
        elif card.state == "ready":
            if card.child.ended:
                self._ended(card, card.child.how_it_ended())
            elif late:
                card.child.heard = now
            else:
                self._listen(card, card.child)

    def _someone_starts(self) -> bool:
        # loading takes the machine's memory and disk: two at once are slower than one after the other
        return any(card.state == "starting" for card in self._cards)

    def _start(self, card: Card) -> None:
        if card.child is not None:
            card.child.close()
        card.child = Child(card.name, card.numbers, self._settings.log_level)
        card.state = "starting"
        log.info("%s: starting, process %d", card.name, card.child.pid)

    def _await_ready(self, card: Card, child: Child) -> None:
        said, waited_s = child.listen(), time.monotonic() - child.started
        if said == READY:
            card.state, card.ready_at = "ready", time.monotonic()
            log.info("%s: ready after %.1f s", card.name, waited_s)
        elif said:
            self._give_up(card, said, _END_S)
        elif child.ended:
            how = f"{child.how_it_ended()} before it was ready"
            if child.status == EXIT_NEVER_READY:
                self._give_up(card, how)
            else:
                self._ended(card, how)
        elif waited_s > self._settings.ready_timeout_s:
            self._give_up(card, f"not ready after {self._settings.ready_timeout_s:.0f} s (VQA_READY_TIMEOUT_S)")

    def _listen(self, card: Card, child: Child) -> None:
        child.listen()
        silent_s = time.monotonic() - child.heard
        if silent_s > self._silence_s:
            log.error("%s: process %d has said nothing for %.0f s: killed", card.name, child.pid, silent_s)
            child.kill()
            # restarted once it has ended: until then the card is not free
            card.state, card.reason = "killed", f"was killed after it had said nothing for {silent_s:.0f} s"

    def _ended(self, card: Card, how: str) -> None:
        # a card on which jobs were answered is not what is wrong: one of its jobs may be
        worked = card.child is not None and card.child.worked
        if card.ready_at and (worked or time.monotonic() - card.ready_at > self._steady_s):
            card.failures = 0
        card.ready_at = 0.0
        card.failures += 1
        if card.failures > self._settings.restarts:
            self._give_up(card, f"{how}, {card.failures} times in a row (VQA_RESTARTS)")
            return
        pause_s = min(_LONGEST_PAUSE_S, 2.0 ** (card.failures - 1))
        card.state, card.next_start = "ended", time.monotonic() + pause_s
        log.error("%s: %s; starting again in %.0f s", card.name, how, pause_s)

    def _give_up(self, card: Card, reason: str, grace_s: float = 0.0) -> None:
        if card.child is not None and not card.child.wait(grace_s):
            card.child.kill()
            card.child.wait(_END_S)
        card.state, card.reason = "given up", reason
        others = sum(other.state != "given up" for other in self._cards)
        log.critical("%s: given up: %s; %d of %d cards go on", card.name, reason, others, len(self._cards))

    def _stop(self) -> int:
        if not self._stopping.is_set():
            log.critical("no worker is left: %s", "; ".join(f"{card.name}: {card.reason}" for card in self._cards))
            return 1
        self._terminate(self._settings.drain_s + _KILL_AFTER_S, unless_signals=2)
        if self._running() and self._signals >= 2:
            time.sleep(_APART_S)
            self._terminate(_GIVE_BACK_S)
        killed = self._running()
        for child in killed:
            child.kill()
        for child in killed:
            child.wait(_END_S)
        log.info("stopped%s", f"; {len(killed)} workers were killed" if killed else "")
        return 0

    def _terminate(self, within_s: float, unless_signals: int | None = None) -> None:
        """Tell every worker to end, and wait until all have, or until so many signals have come."""
        for child in self._running():
            child.terminate()
        until = time.monotonic() + within_s
        while self._running() and time.monotonic() < until:
            if unless_signals is not None and self._signals >= unless_signals:
                return
            time.sleep(0.05)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._stopping.set()


def _node_name(cards: Cards, name: str | None, workers: int) -> str:
    own = f"card{label(cards)}" if cards else "cpu"
    if name is None:
        return own
    return name if workers == 1 else f"{name}-{own}"
