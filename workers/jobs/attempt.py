"""One attempt at a job: take -> answer -> close, and what becomes of it when it cannot be answered now."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from celery import Celery

from vqa import results
from vqa.celery import wake, wake_fed
from vqa.connection import UNREACHED
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, JobGivenUp, UnsupportedVersion, VQAError
from vqa.job import Job, Lane
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Charge, Ending, Lease, Refusal
from vqa.ledger.sweep import WORKER_LOST
from vqa.results import Outcome
from vqa.settings import QueueSettings
from workers.jobs.answering import Answering
from workers.jobs.exclusive import Company
from workers.jobs.foreign import UNSUPPORTED, Adoption, Foreign
from workers.jobs.leases import Leases

log = logging.getLogger(__name__)

#: between two tries at telling Redis how a job ended
_PAUSE_S = 1.0

#: reason of a dead letter; vqa.ledger.sweep and workers.jobs.foreign have others
ATTEMPTS_USED_UP = "attempts_used_up"


class Leaving(Exception):
    """This worker is about to end and takes no more."""


class Delayed(Exception):
    """The attempt failed with a transient error, and the ledger holds the job until its delay is over."""

    def __init__(self, error: VQAError, delay_s: float) -> None:
        super().__init__(f"{type(error).__name__}, again in {delay_s:.1f} s")
        self.error = error
        self.delay_s = delay_s


@dataclass(frozen=True)
class Attempts:
    """What a worker needs to answer jobs; one instance a process, used by all of its threads."""

    worker: str
    settings: QueueSettings
    app: Celery
    ledger: Ledger
    closing: Closing
    adoption: Adoption
    answering: Answering
    leases: Leases
    company: Company
    #: set when this process is about to end: whatever it still holds is handed on by `workers.process.shutdown`
    leaving: threading.Event
    #: set when this process takes no more, and finishes what it holds
    draining: threading.Event

    def answer(self, id: str, foreign: Foreign | None, lane: Lane) -> Refusal | None:
        """Answer the job of that id, or say why it is not to be had; one that another app sent is adopted first.

        Raises the error with which the job ended, Delayed when it goes on, Leaving when this worker takes no more.
        """
        with self.company.together():
            refusal = self._attempt(id, foreign, lane, alone=False)
        if refusal == "alone":
            with self.company.alone():
                refusal = self._attempt(id, foreign, lane, alone=True)
        return refusal

    def _attempt(self, id: str, foreign: Foreign | None, lane: Lane, alone: bool) -> Refusal | None:
        if self.leaving.is_set() or self.draining.is_set():
            raise Leaving
        lease = self._take(id, foreign, lane, alone)
        if not isinstance(lease, Lease):
            return lease
        with self.leases.holding(lease):
            wake_fed(self.app, lease.fed)
            # taken while the departure looked at what there is to hand on
            if self.leaving.is_set():
                self._hand_back(lease)
                raise Leaving
            self._run(lease)
        return None

    def _take(self, id: str, foreign: Foreign | None, lane: Lane, alone: bool) -> Lease | Refusal:
        token = uuid.uuid4().hex
        lease = self.ledger.take(id, self.worker, token, self.settings.lease_s, alone)
        if lease == "unknown" and foreign is not None:
            self.adoption.adopt(id, foreign, lane)
            lease = self.ledger.take(id, self.worker, token, self.settings.lease_s, alone)
        if lease == "late":
            error = DeadlineExceeded("the job's timeout ran out while it was queued")
            self.closing.close(id, error)
            raise error
        return lease

    def _run(self, lease: Lease) -> None:
        result: Outcome
        try:
            result = self.answering.answer(lease)
        except VQAError as error:
            result = error
        except UNREACHED as error:
            result = EngineError(f"its images could not be fetched from Redis ({type(error).__name__})")
        except Exception as error:
            log.exception("job %s met a bug of ours", lease.id)
            result = EngineError(f"the worker failed on it with {type(error).__name__}")
        if isinstance(result, EngineError) and self.leaving.is_set():
            raise Delayed(result, 0)
        if isinstance(result, Cancelled):
            # whoever cancels has written that; if nobody has, the engine was told of an earlier lease of this job
            self._hand_back(lease)
        elif isinstance(result, VQAError) and result.retry:
            self._insist(lease, partial(self._retry, lease, result))
        else:
            self._insist(lease, partial(self._close, lease, result))
        if isinstance(result, VQAError):
            raise result

    def hand_on(self, held: list[Lease], charged: Collection[str], error: EngineError) -> int:
        """Back to the queue: as lost by their worker those of `charged`, as if not taken the others; how many."""
        charges: list[tuple[Lease, Charge]] = []
        for lease in held:
            if lease.id in charged and lease.header.alone:
                self._give_up(lease, WORKER_LOST, error)
            else:
                charges.append((lease, "lost" if lease.id in charged else "0"))
        moved = self.ledger.give_back(charges, f"{type(error).__name__}: {error}")
        wake(self.app, [(lease.id, lease.header.lane) for lease in moved])
        return len(moved)

    def _hand_back(self, lease: Lease) -> None:
        if self.ledger.retry(lease.id, lease.token, charge="0"):
            wake(self.app, [(lease.id, lease.header.lane)])

    def _insist(self, lease: Lease, end: Callable[[], None]) -> None:
        """Redis may be away for longer than a call is tried: an outcome is kept as long as it counts."""
        until = time.monotonic() + lease.remaining_s
        while True:
            try:
                return end()
            except UNREACHED as error:
                if self.leaving.is_set() or time.monotonic() > until:
                    raise
                log.warning("job %s has ended, and Redis does not take it yet: %s", lease.id, type(error).__name__)
            self.leaving.wait(_PAUSE_S)

    def _retry(self, lease: Lease, error: VQAError) -> None:
        header = lease.header
        policy = Job.from_json(lease.payload).retry or self.settings.retry(header.lane)
        # one that has lost a worker has its attempts whatever its policy says
        if header.alone if header.lost else header.attempt >= policy.attempts:
            raise self._give_up(lease, ATTEMPTS_USED_UP, error)
        delay_s = random.uniform(0, policy.longest_delay_s(header.attempt))
        if self.ledger.retry(lease.id, lease.token, delay_s, f"{type(error).__name__}: {error}"):
            if round(delay_s * 1000) == 0:
                wake(self.app, [(lease.id, header.lane)])
            raise Delayed(error, delay_s)

    def _give_up(self, lease: Lease, reason: str, error: VQAError) -> JobGivenUp:
        last = f"{type(error).__name__}: {error}"
        outcome = JobGivenUp(f"{reason}: given up after {lease.header.attempt} attempts; the last one: {last}")
        self._close(lease, outcome, reason, last)
        return outcome

    def _close(self, lease: Lease, result: Outcome, reason: str = "", error: str = "") -> None:
        if isinstance(result, UnsupportedVersion):
            reason, error = UNSUPPORTED, str(result)
        encoded = results.encode(self.app.backend, lease.id, result, lease.header.attempt, error or lease.header.error)
        kept_s, tally = self.settings.result_ttl_s, results.tally(result)
        closed = self.ledger.close(Ending(lease.id, lease.token, encoded, kept_s, reason, error, tally=tally))
        wake_fed(self.app, closed.fed)
        if not closed:
            log.info("job %s was closed or taken elsewhere; this attempt's outcome is dropped", lease.id)
        elif reason:
            log.error("job %s is given up and kept as a dead letter: %s", lease.id, reason)
