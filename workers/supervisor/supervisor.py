"""Starts one worker process per card, restarts those that die or hang, and gives up on those that keep dying.

A worker owns one card, or several when its model is spread over them.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass
from typing import Literal

from vqa.rollout import Target
from workers.cards import Cards, label
from workers.engine.runtime.heartbeat import limit_s
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.card_model import CardModel
from workers.supervisor.link import EXIT_NEVER_READY, READY
from workers.supervisor.worker_process import SupervisedProcess

log = logging.getLogger(__name__)

#: between two checks of the workers
_CHECK_INTERVAL_S = 0.2
#: a check that comes this much late means that the supervisor itself was stopped
_LATE_S = 1.0
#: longest pause before a restart; the first is 1 s, and each failure in a row doubles it
_MAX_PAUSE_S = 30.0
#: a worker that was ready for this long, plus the time that it may hang, starts its count of failures anew
_STABLE_S = 300.0
#: a ready worker sends a heartbeat every half second. One that sends none for VQA_HANG_S, and for at least this long,
#: is stopped or stuck in a call that holds the interpreter's lock
_MIN_SILENCE_S = 10.0
#: a draining worker is killed this long after VQA_DRAIN_S
_KILL_AFTER_S = 15.0
#: for a worker to give back its jobs after a second SIGTERM
_GIVE_BACK_S = 5.0
#: between the first and the second SIGTERM, as two signals that arrive together count as one
_SIGNAL_GAP_S = 0.5
#: for a process to end after it was killed, or after it reported why it cannot start
_END_S = 10.0

State = Literal["starting", "ready", "killed", "ended", "given up"]


@dataclass
class Worker:
    """A worker's cards and the process that owns them now."""

    cards: Cards
    name: str
    model: CardModel
    process: SupervisedProcess | None = None
    state: State = "ended"
    #: why it was killed or given up
    reason: str = ""
    #: given up because it would fail again in the same way
    never_ready: bool = False
    #: in a row
    failures: int = 0
    #: whether one of its processes has answered a job
    works: bool = False
    #: times of `time.monotonic()`
    ready_at: float = 0.0
    next_start: float = 0.0


class Supervisor:
    """The workers of one machine; call `run`."""

    def __init__(
        self, workers: list[Cards], name: str | None, settings: WorkerSettings, engine: EngineSettings
    ) -> None:
        self._settings = settings
        self._silence_s = max(_MIN_SILENCE_S, engine.hang_s)
        self._stable_s = _STABLE_S + max(self._silence_s, limit_s("prefill", engine.hang_s))
        own = Target(model=engine.model, revision=engine.revision)
        self._workers = [Worker(cards, _node_name(cards, name, len(workers)), CardModel(own)) for cards in workers]
        self._stopping = threading.Event()
        self._signals = 0

    def run(self) -> int:
        """Supervise until a signal arrives (return 0) or all workers are given up.

        Returns EXIT_NEVER_READY if each was given up because it cannot start, else 1.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        checked_at = time.monotonic()
        try:
            while not self._stopping.is_set() and any(worker.state != "given up" for worker in self._workers):
                late = time.monotonic() - checked_at > _CHECK_INTERVAL_S + _LATE_S
                checked_at = time.monotonic()
                for worker in self._workers:
                    self._check(worker, late)
                self._stopping.wait(_CHECK_INTERVAL_S)
            return self._stop()
        finally:
            for process in self._running():
                process.kill()

    def _running(self) -> list[SupervisedProcess]:
        return [worker.process for worker in self._workers if worker.process is not None and not worker.process.ended]

    def _check(self, worker: Worker, late: bool) -> None:
        now = time.monotonic()
        if worker.state == "ended" and now >= worker.next_start and not self._any_starting():
            # slots are planned from the memory that is free
            if worker.process is None or worker.process.has_freed_card() or now >= worker.next_start + _END_S:
                self._start(worker)
        elif worker.process is None:
            return
        elif worker.state == "starting":
            self._check_starting(worker, worker.process)
        elif worker.state == "killed" and worker.process.ended:
            self._on_end(worker, worker.reason)
        elif worker.state == "ready":
            if worker.process.ended:
                self._on_end(worker, worker.process.describe_end())
            else:
                self._check_ready(worker, worker.process, late)

    def _any_starting(self) -> bool:
        # loading is bound by memory and disk: two at once are slower than one after the other
        return any(worker.state == "starting" for worker in self._workers)

    def _start(self, worker: Worker) -> None:
        if worker.process is not None:
            worker.process.link.close()
        variables = worker.model.environment()
        worker.process = SupervisedProcess(worker.name, worker.cards, self._settings.log_level, variables)
        worker.state = "starting"
        log.info("%s: starting, process %d", worker.name, worker.process.pid)

    def _check_starting(self, worker: Worker, process: SupervisedProcess) -> None:
        report, waited_s = process.read(), time.monotonic() - process.started_at
        if report == READY:
            worker.state, worker.ready_at = "ready", time.monotonic()
            log.info("%s: ready after %.1f s", worker.name, waited_s)
        elif report:
            self._give_up(worker, report, _END_S, never_ready=True)
        elif process.ended:
            how = f"{process.describe_end()} before it was ready"
            if process.status == EXIT_NEVER_READY:
                self._give_up(worker, how, never_ready=True)
            else:
                self._on_end(worker, how)
        elif waited_s > self._settings.ready_timeout_s:
            self._give_up(worker, f"not ready after {self._settings.ready_timeout_s:.0f} s (VQA_READY_TIMEOUT_S)")

    def _check_ready(self, worker: Worker, process: SupervisedProcess, late: bool) -> None:
        if late:
            process.last_heartbeat = time.monotonic()
        else:
            self._check_heartbeat(worker, process)
        if worker.model.on_trial and time.monotonic() - worker.ready_at >= worker.model.watch_s:
            worker.model.keep()

    def _check_heartbeat(self, worker: Worker, process: SupervisedProcess) -> None:
        process.read()
        silent_s = time.monotonic() - process.last_heartbeat
        if silent_s > self._silence_s:
            log.error("%s: no heartbeat from process %d for %.0f s, killing it", worker.name, process.pid, silent_s)
            process.kill()
            # restarted only once the process has ended, because until then the card is not free
            worker.state, worker.reason = "killed", f"was killed after {silent_s:.0f} s without a heartbeat"

    def _on_end(self, worker: Worker, how: str) -> None:
        if self._changes_model(worker, how):
            return
        # a card that answered jobs works: one of the jobs may be the cause, or a message
        answered, was_ready = worker.process is not None and worker.process.has_answered(), worker.ready_at > 0
        worker.works = worker.works or answered
        if was_ready and (answered or time.monotonic() - worker.ready_at > self._stable_s):
            worker.failures = 0
        worker.ready_at = 0.0
        worker.failures += 1
        if worker.failures > self._settings.restarts and not (worker.works and was_ready):
            self._give_up(worker, f"{how}, {worker.failures} times in a row (VQA_RESTARTS)")
            return
        pause_s = min(_MAX_PAUSE_S, 2.0 ** min(worker.failures - 1, 10))
        worker.state, worker.next_start = "ended", time.monotonic() + pause_s
        log.error("%s: %s; restarting in %.0f s", worker.name, how, pause_s)

    def _changes_model(self, worker: Worker, how: str) -> bool:
        """Let an ended worker start again at once if a rollout asked for it, or if the model asked for failed."""
        if worker.process is not None:
            # it may have asked just before it ended
            worker.process.read()
        if worker.process is not None and worker.process.request is not None:
            # what it ran until it was asked is the model before, though it was still watched
            if worker.ready_at:
                worker.model.keep()
            worker.model.try_out(worker.process.request)
            log.info("%s: %s; restarting for a rollout with %s", worker.name, how, worker.model.target)
        elif worker.model.on_trial:
            failed = worker.model.target
            if worker.ready_at:
                how += f", {time.monotonic() - worker.ready_at:.0f} s after it was ready"
            worker.model.go_back(how)
            log.error("%s: %s failed: %s; going back to %s", worker.name, failed, how, worker.model.target)
        else:
            return False
        worker.state, worker.ready_at, worker.failures, worker.next_start = "ended", 0.0, 0, time.monotonic()
        return True

    def _give_up(self, worker: Worker, reason: str, grace_s: float = 0.0, never_ready: bool = False) -> None:
        if worker.process is not None and not worker.process.wait(grace_s):
            worker.process.kill()
            worker.process.wait(_END_S)
        if self._changes_model(worker, reason):
            return
        worker.state, worker.reason, worker.never_ready = "given up", reason, never_ready
        left = sum(other.state != "given up" for other in self._workers)
        log.critical("%s: given up: %s; %d of %d workers are left", worker.name, reason, left, len(self._workers))

    def _stop(self) -> int:
        if not self._stopping.is_set():
            reasons = "; ".join(f"{worker.name}: {worker.reason}" for worker in self._workers)
            log.critical("all workers were given up: %s", reasons)
            return EXIT_NEVER_READY if all(worker.never_ready for worker in self._workers) else 1
        self._terminate(self._settings.drain_s + _KILL_AFTER_S, until_second_signal=True)
        if self._running() and self._signals >= 2:
            time.sleep(_SIGNAL_GAP_S)
            self._terminate(_GIVE_BACK_S)
        killed = self._running()
        for process in killed:
            process.kill()
        for process in killed:
            process.wait(_END_S)
        log.info("stopped%s", f"; {len(killed)} workers were killed" if killed else "")
        return 0

    def _terminate(self, timeout_s: float, until_second_signal: bool = False) -> None:
        """Send SIGTERM to every worker and wait until all have ended, or a second signal has arrived."""
        for process in self._running():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + timeout_s
        while self._running() and time.monotonic() < until:
            if until_second_signal and self._signals >= 2:
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
