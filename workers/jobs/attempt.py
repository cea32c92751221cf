"""One attempt at a job: take, answer, close; or a retry, a return to the queue, a dead letter."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from vqa import results
from vqa.celery import publish_promoted, wake
from vqa.connection import REDIS_ERRORS
from vqa.error_replies import describe
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, JobGivenUp, UnsupportedVersion, VQAError
from vqa.job import Job, Lane, RetryPolicy
from vqa.ledger.closing import Closing
from vqa.ledger.records import Charge, Ending, Lease, Refusal
from vqa.ledger.sweep import WORKER_LOST
from vqa.results import Outcome
from vqa.settings import QueueSettings
from workers.jobs import middleware
from workers.jobs.answering import Answering
from workers.jobs.exclusive import SharedLock
from workers.jobs.foreign import UNSUPPORTED, ForeignJob, ForeignJobs
from workers.jobs.leases import Leases

log = logging.getLogger(__name__)

#: between two tries to write an outcome to Redis
_PAUSE_S = 1.0

#: reason of a dead letter; vqa.ledger.sweep and workers.jobs.foreign have others
ATTEMPTS_USED_UP = "attempts_used_up"


#: how often an attempt that failed with an unexpected error is repeated before it counts
_FREE_FAILURES = 2


class ShuttingDown(Exception):
    """This worker takes no more jobs."""


class Delayed(Exception):
    """The attempt failed with a transient error; the ledger holds the job until its delay is over."""

    def __init__(self, error: VQAError, delay_s: float) -> None:
        super().__init__(f"{type(error).__name__}, again in {delay_s:.1f} s")
        self.error = error
        self.delay_s = delay_s


@dataclass(frozen=True)
class Attempts:
    """Runs attempts; one instance per process, shared by its threads."""

    settings: QueueSettings
    closing: Closing
    foreign_jobs: ForeignJobs
    answering: Answering
    leases: Leases
    middleware: Sequence[middleware.AttemptMiddleware]
    #: held while a job runs, exclusively by a job that must run alone
    lock: SharedLock = field(default_factory=SharedLock)
    #: set when the process takes no more jobs, and finishes those that it holds
    draining: threading.Event = field(default_factory=threading.Event)
    #: set when the process is about to end; `workers.process.shutdown` gives back the jobs that it still holds
    shutting_down: threading.Event = field(default_factory=threading.Event)

    def answer(self, id: str, foreign: ForeignJob | None, lane: Lane) -> Refusal | None:
        """Answer the job of that id, or return why it cannot be taken; a foreign job is accepted first.

        Raises the error with which the job ended, Delayed if it will be retried, ShuttingDown if this worker takes no
        more jobs, and one of REDIS_ERRORS.
        """
        with self.lock.shared():
            refusal = self._attempt(id, foreign, lane, alone=False)
        if refusal == "alone":
            with self.lock.exclusive():
                refusal = self._attempt(id, foreign, lane, alone=True)
        return refusal

    def _attempt(self, id: str, foreign: ForeignJob | None, lane: Lane, alone: bool) -> Refusal | None:
        if self.shutting_down.is_set() or self.draining.is_set():
            raise ShuttingDown
        lease = self._take(id, foreign, lane, alone)
        if not isinstance(lease, Lease):
            return lease
        with self.leases.holding(lease):
            try:
                self._run(lease)
            except (VQAError, Delayed, ShuttingDown, *REDIS_ERRORS):
                raise
            except Exception as error:
                self._failed(lease, error)
        return None

    def _take(self, id: str, foreign: ForeignJob | None, lane: Lane, alone: bool) -> Lease | Refusal:
        token, lease_s = uuid.uuid4().hex, self.settings.lease_s
        take = partial(self.closing.ledger.take, id, self.answering.worker, token, lease_s, alone)
        lease = take()
        if lease == "unknown" and foreign is not None:
            self.foreign_jobs.accept(id, foreign, lane)
            lease = take()
        if lease == "overdue":
            error = DeadlineExceeded("the job's timeout ran out while it was queued")
            self.closing.close(id, error)
            raise error
        return lease

    def _run(self, lease: Lease) -> None:
        publish_promoted(self.closing.app, lease.promoted)
        # the shutdown may have listed the leases to give back before this one was taken
        if self.shutting_down.is_set():
            self._give_back(lease)
            raise ShuttingDown
        outcome = self._outcome(lease)
        if isinstance(outcome, EngineError) and self.shutting_down.is_set():
            raise Delayed(outcome, 0)
        if isinstance(outcome, Cancelled):
            # a cancelled job is closed already; if it is open, the engine was told to cancel an earlier lease of it
            self._give_back(lease)
        elif isinstance(outcome, VQAError) and outcome.retry:
            policy = Job.from_json(lease.payload).retry or self.settings.retry(lease.header.lane)
            self._until_written(lease, partial(self._retry, lease, outcome, policy))
        else:
            self._until_written(lease, partial(self._close, lease, outcome))
        if isinstance(outcome, VQAError):
            raise outcome

    def _outcome(self, lease: Lease) -> Outcome:
        answer = partial(self.answering.answer, started=time.monotonic())
        try:
            return middleware.run(self.middleware, Job.from_json(lease.payload), lease, answer)
        except VQAError as error:
            return error
        except REDIS_ERRORS as error:
            return EngineError(f"its images could not be fetched from Redis ({type(error).__name__})")

    def _failed(self, lease: Lease, error: Exception) -> NoReturn:
        """Retry a job after an unexpected error, the worker's own: at first it does not count."""
        header = lease.header
        counts = sum(earlier.attempt == header.attempt for earlier in header.history) >= _FREE_FAILURES
        how = "the attempt counts, as it failed so before" if counts else "the attempt does not count"
        log.error("job %s failed with an unexpected error and is retried; %s", lease.id, how, exc_info=error)
        outcome = EngineError(f"the worker failed on it with {type(error).__name__}")
        # not the job's own policy: the error may be about reading the job
        retry = partial(self._retry, lease, outcome, self.settings.retry(header.lane), "1" if counts else "0")
        self._until_written(lease, retry)
        raise outcome

    def give_back(self, held: list[Lease], charged: Collection[str], error: EngineError) -> int:
        """Return the jobs of these leases to the queue, and how many were returned.

        Jobs in `charged` have lost a worker by it; for the others the attempt does not count.
        """
        charges: list[tuple[Lease, Charge]] = []
        for lease in held:
            if lease.id in charged and lease.header.alone:
                self._give_up(lease, WORKER_LOST, error)
            else:
                charges.append((lease, "lost" if lease.id in charged else "0"))
        moved = self.closing.ledger.give_back(charges, f"{type(error).__name__}: {error}")
        wake(self.closing.app, [(lease.id, lease.header.lane) for lease in moved])
        return len(moved)

    def _give_back(self, lease: Lease) -> None:
        if self.closing.ledger.retry(lease.id, lease.token, charge="0"):
            wake(self.closing.app, [(lease.id, lease.header.lane)])

    def _until_written(self, lease: Lease, write: Callable[[], None]) -> None:
        """Call `write` until Redis accepts it, the job's deadline passes or the process shuts down."""
        until = time.monotonic() + lease.remaining_s
        while True:
            try:
                return write()
            except REDIS_ERRORS as error:
                if self.shutting_down.is_set() or time.monotonic() > until:
                    raise
                log.warning("outcome of job %s is not written yet: %s; trying again", lease.id, describe(error))
            self.shutting_down.wait(_PAUSE_S)

    def _retry(self, lease: Lease, error: VQAError, policy: RetryPolicy, charge: Charge = "1") -> None:
        header = lease.header
        # a job that has lost a worker gets its attempts whatever its policy says
        if charge == "1" and (header.alone if header.lost else header.attempt >= policy.attempts):
            raise self._give_up(lease, ATTEMPTS_USED_UP, error)
        delay_s = random.uniform(0, policy.longest_delay_s(header.attempt))
        if self.closing.ledger.retry(lease.id, lease.token, delay_s, f"{type(error).__name__}: {error}", charge):
            if round(delay_s * 1000) == 0:
                wake(self.closing.app, [(lease.id, header.lane)])
            raise Delayed(error, delay_s)

    def _give_up(self, lease: Lease, reason: str, error: VQAError) -> JobGivenUp:
        last = f"{type(error).__name__}: {error}"
        outcome = JobGivenUp(f"{reason}: given up after {lease.header.attempt} attempts; the last one: {last}")
        self._close(lease, outcome, reason, last)
        return outcome

    def _close(self, lease: Lease, outcome: Outcome, reason: str = "", error: str = "") -> None:
        if isinstance(outcome, UnsupportedVersion):
            reason, error = UNSUPPORTED, str(outcome)
        app, header, ttl_s = self.closing.app, lease.header, self.closing.ttl_s
        encoded = results.encode(app.backend, lease.id, outcome, header.attempt, error or header.error)
        ending = Ending(lease.id, lease.token, encoded, ttl_s, reason, error, tally=results.tally(outcome))
        closed = self.closing.ledger.close(ending)
        publish_promoted(app, closed.promoted)
        if not closed:
            log.info("job %s was closed or taken elsewhere; this attempt's outcome is dropped", lease.id)
        elif reason:
            log.error("job %s is given up and kept as a dead letter: %s", lease.id, reason)
