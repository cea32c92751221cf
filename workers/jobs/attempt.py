"""One attempt at a job: take it, answer it, end it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NoReturn

from vqa.celery import publish_promoted, wake
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, VQAError
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.closing import Closing
from vqa.ledger.records import Charge, Lease, Refusal
from vqa.ledger.sweep import WORKER_LOST
from vqa.redis.connection import REDIS_ERRORS
from vqa.results import Outcome
from vqa.routing import model_of
from vqa.settings import QueueSettings
from workers.engine.base import EngineUnavailable
from workers.jobs import middleware
from workers.jobs.answering import Answering
from workers.jobs.endings import Delayed, Endings
from workers.jobs.exclusive import SharedLock
from workers.jobs.foreign import ForeignJob, ForeignJobs
from workers.jobs.leases import Leases
from workers.jobs.permits import Permit, Permits
from workers.jobs.served import Served

log = logging.getLogger(__name__)

#: how often an attempt that failed with an unexpected error is repeated before it counts
_FREE_FAILURES = 2


class ShuttingDown(Exception):
    """This worker takes no more jobs."""


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
    permits: Permits = field(default_factory=Permits)
    #: which jobs are this worker's; None for all
    served: Served | None = None
    #: what each attempt runs inside of, as logs and traces do that name its job
    around: Sequence[Callable[[Lease], AbstractContextManager[None]]] = ()
    #: called when the process ends before its attempts do, with the reason
    on_end: Sequence[Callable[[EngineError], None]] = ()
    #: set when the process takes no more jobs, and finishes those that it holds
    draining: threading.Event = field(default_factory=threading.Event)
    #: set when the process is about to end; `workers.process.shutdown` gives back the jobs that it still holds
    shutting_down: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def _endings(self) -> Endings:
        return Endings(self.closing, self.leases, self.shutting_down)

    def answer(self, id: str, foreign: ForeignJob | None, lane: Lane) -> Refusal | None:
        """Answer the job of that id, or return why it cannot be taken; a foreign job is accepted first.

        Raises the error with which the job ended, Delayed if it will be retried, ShuttingDown if this worker takes no
        more jobs, and one of REDIS_ERRORS.
        """
        permit = self.permits.next(lane)
        with self.lock.shared(), permit.computing():
            refusal = self._attempt(id, foreign, lane, permit, alone=False)
        if refusal == "alone":
            with self.lock.exclusive(), permit.computing():
                refusal = self._attempt(id, foreign, lane, permit, alone=True)
        return refusal

    def _attempt(self, id: str, foreign: ForeignJob | None, lane: Lane, permit: Permit, alone: bool) -> Refusal | None:
        if self.shutting_down.is_set() or self.draining.is_set():
            raise ShuttingDown
        lease = self._take(id, foreign, lane, alone)
        if not isinstance(lease, Lease):
            return lease
        with self.leases.holding(lease), self._surroundings(lease):
            try:
                self._run(lease, permit)
            except (VQAError, Delayed, ShuttingDown, *REDIS_ERRORS):
                raise
            except Exception as error:
                self._failed(lease, error)
        return None

    def _surroundings(self, lease: Lease) -> AbstractContextManager[object]:
        if not self.around:
            return nullcontext()
        stack = ExitStack()
        for surrounding in self.around:
            stack.enter_context(surrounding(lease))
        return stack

    def _take(self, id: str, foreign: ForeignJob | None, lane: Lane, alone: bool) -> Lease | Refusal:
        token, lease_s = uuid.uuid4().hex, self.settings.lease_s
        take = partial(self.closing.ledger.take, id, self.answering.worker, token, lease_s, alone)
        lease = take()
        if lease == "unknown" and foreign is not None:
            queue = self.foreign_jobs.accept(id, foreign, lane)
            if not self._takes(model_of(queue)):
                wake(self.closing.app, [(id, queue)])
                return "held"
            lease = take()
        if lease == "overdue":
            error = DeadlineExceeded("the job's timeout ran out while it was queued")
            self.closing.close(id, error)
            raise error
        if isinstance(lease, Lease) and not self._takes(lease.header.model):
            # a message on a wrong list, by another program or by a janitor of an earlier release
            publish_promoted(self.closing.app, lease.promoted, lease.header.queue)
            self._endings.give_back(lease)
            return "held"
        return lease

    def _takes(self, model: str | None) -> bool:
        return self.served is None or self.served.takes(model)

    def _run(self, lease: Lease, permit: Permit) -> None:
        publish_promoted(self.closing.app, lease.promoted, lease.header.queue)
        # the shutdown may have listed the leases to give back before this one was taken
        if self.shutting_down.is_set():
            self._endings.give_back(lease)
            raise ShuttingDown
        outcome = self._outcome(lease, permit)
        if isinstance(outcome, EngineError) and self.shutting_down.is_set():
            raise Delayed(outcome, 0)
        if isinstance(outcome, Cancelled):
            # a cancelled job is closed already; if it is open, the engine was told to cancel an earlier lease of it
            self._endings.give_back(lease)
        elif isinstance(outcome, VQAError) and outcome.retry:
            policy = Job.from_json(lease.payload).retry or self.settings.retry(lease.header.lane)
            charge: Charge = "0" if isinstance(outcome, EngineUnavailable) else "1"
            self._endings.write(lease, partial(self._endings.retry, lease, outcome, policy, charge))
        else:
            self._endings.write(lease, partial(self._endings.close, lease, outcome))
        if isinstance(outcome, VQAError):
            raise outcome

    def _outcome(self, lease: Lease, permit: Permit) -> Outcome:
        answer = partial(self.answering.answer, permit=permit, started=time.monotonic())
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
        retry = partial(self._endings.retry, lease, outcome, self.settings.retry(header.lane), "1" if counts else "0")
        self._endings.write(lease, retry)
        raise outcome

    def give_back(self, held: list[Lease], charged: Collection[str], error: EngineError) -> int:
        """Return the jobs of these leases to the queue, and how many were returned.

        Jobs in `charged` have lost a worker by it; for the others the attempt does not count.
        """
        charges: list[tuple[Lease, Charge]] = []
        for lease in held:
            if lease.id in charged and lease.header.alone:
                self._endings.give_up(lease, WORKER_LOST, error)
            else:
                charges.append((lease, "lost" if lease.id in charged else "0"))
        moved = self.closing.ledger.give_back(charges, f"{type(error).__name__}: {error}")
        wake(self.closing.app, [(lease.id, lease.header.queue) for lease in moved])
        for end in self.on_end:
            end(error)
        return len(moved)
