"""Records each attempt when it has ended: its wait in the queue, its stages, and how it was closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vqa.answer import Answer
from vqa.errors import Cancelled, JobGivenUp, UnsupportedVersion, VQAError
from vqa.jobs.job import Job
from vqa.ledger.attempt_spans import Clock, attempt_span, earlier_attempts, own_trace, record_lost, record_wait
from vqa.ledger.records import Lease
from vqa.redis.connection import REDIS_ERRORS
from vqa.results import Outcome
from vqa.tracing import attributes as names
from vqa.tracing.otel import Tracing, traceparent
from vqa.tracing.traceparent import Traceparent
from workers.jobs.attempt import ShuttingDown
from workers.jobs.endings import Delayed
from workers.tracing.stages import Stages, record_stages


@dataclass(slots=True, eq=False)
class OpenAttempt:
    """An attempt that has not ended."""

    lease: Lease
    clock: Clock
    stages: Stages = field(default_factory=Stages)
    #: what the middleware returned
    outcome: Outcome | None = None
    #: when it did, in ns since the epoch
    outcome_ns: int = 0


class AttemptSpans:
    """Surrounds the worker's attempts, and is the outermost of their middleware, which tells it outcomes."""

    def __init__(self, tracing: Tracing, worker: str, model: str) -> None:
        self._tracing = tracing
        self._worker = worker
        self._model = model
        self._lock = threading.Lock()
        self._open: dict[str, OpenAttempt] = {}

    @contextmanager
    def around(self, lease: Lease) -> Iterator[None]:
        """Record the attempt when the block ends, with the error that it raises."""
        attempt = OpenAttempt(lease, Clock.from_redis(lease.taken))
        with self._lock:
            self._open[lease.id] = attempt
        try:
            yield
        except BaseException as error:
            self._end(attempt, error)
            raise
        else:
            self._end(attempt, None)

    def before(self, job: Job, lease: Lease) -> Answer | None:
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if attempt := self._open.get(lease.id):
            attempt.outcome, attempt.outcome_ns = outcome, time.time_ns()
        return outcome

    def stages(self, job_id: str) -> Stages | None:
        """Return where the engine notes what it does for the job's attempt."""
        attempt = self._open.get(job_id)
        return attempt.stages if attempt else None

    def end_all(self, error: BaseException) -> None:
        """Record all open attempts, whose jobs go back to the queue: the process ends."""
        for attempt in list(self._open.values()):
            self._end(attempt, error)

    def _end(self, attempt: OpenAttempt, error: BaseException | None) -> None:
        with self._lock:
            # two may end it: its thread, and the one that ends the process
            if self._open.get(attempt.lease.id) is not attempt:
                return
            del self._open[attempt.lease.id]
        self._record(attempt, error)

    def _record(self, attempt: OpenAttempt, error: BaseException | None) -> None:
        lease, tracing, end_ns = attempt.lease, self._tracing, time.time_ns()
        header, clock = lease.header, attempt.clock
        parent, began_ns = Traceparent.parse(header.trace), clock.own_ns
        trace_id = None if parent else own_trace(lease.id)
        span = tracing.start(
            f"process {header.lane}",
            "consumer",
            parent,
            at_ns=began_ns,
            attributes=self._about(lease, error) | _outcome(attempt.outcome),
            links=earlier_attempts(lease.id, header),
            trace_id=trace_id,
            span_id=attempt_span(lease.token),
        )
        if not span.is_recording():
            return
        record_lost(tracing, lease.id, header, clock)
        own = traceparent(span.get_span_context())
        waiting_ns = clock.ns(header.history[-1].ended if header.history else header.accepted)
        record_wait(tracing, lease.id, header, parent or own, waiting_ns, began_ns)
        ended_ns = attempt.outcome_ns or end_ns
        record_stages(tracing, own, attempt.stages, self._model, attempt.outcome, began_ns, ended_ns)
        if attempt.outcome is not None and not isinstance(error, ShuttingDown):
            settle = names.message("settle", lease.id, header.lane)
            tracing.record(f"settle {header.lane}", "client", own, ended_ns, end_ns, attributes=settle)
        is_failure = error is not None and not isinstance(error, ShuttingDown)
        tracing.end(span, end_ns, names.code_of(_cause(error)) if error and is_failure else None)

    def _about(self, lease: Lease, error: BaseException | None) -> dict[str, names.Value]:
        header = lease.header
        about = names.message("process", lease.id, header.lane)
        about |= {names.ATTEMPT: header.attempt, names.WORKER: self._worker, names.OUTCOME: outcome_name(error)}
        if header.tenant:
            about[names.TENANT] = header.tenant
        if header.batch:
            about[names.BATCH] = header.batch
        return about


def outcome_name(error: BaseException | None) -> str:
    """Return how an attempt ended that raised this error."""
    match error:
        case None:
            return "answered"
        case Delayed():
            return "retried"
        case Cancelled():
            return "cancelled"
        case JobGivenUp() | UnsupportedVersion():
            return "dead_letter"
        case VQAError():
            return "failed"
        case _ if isinstance(error, ShuttingDown | REDIS_ERRORS):
            return "returned"
    return "failed"


def _cause(error: BaseException) -> BaseException:
    """Return what the attempt failed with, also where the job is delayed or given up for it."""
    match error:
        case Delayed():
            return error.error
        case JobGivenUp() if isinstance(error.__cause__, VQAError):
            return error.__cause__
    return error


def _outcome(outcome: Outcome | None) -> dict[str, names.Value]:
    return {names.REUSED: True} if isinstance(outcome, Answer) and outcome.reused else {}
