"""A span for each job that is sent, whose traceparent goes with the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from producer.client.submission import PreparedJob
from vqa.results import trace_of
from vqa.tracing import attributes as names
from vqa.tracing.active import active
from vqa.tracing.traceparent import Traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from vqa.tracing.otel import Tracing

#: the ledger's verdicts on jobs that it did not accept, and the codes of their errors
_REFUSED = {"full": "queue_full", "over": "cancelled"}


@dataclass(slots=True)
class Sending:
    """Jobs with the traceparents of their spans, if this process traces; else as they were."""

    jobs: Sequence[PreparedJob]
    #: the ledger's verdicts by id, once they are known
    verdicts: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def sending(jobs: Sequence[PreparedJob]) -> Iterator[Sending]:
    """Give each job a span that lasts as long as the block: a child of its trace if it has one, else a root.

    Jobs of a batch have a trace each, so that the sampler decides for each row, and no trace grows with the batch.
    """
    tracing = active()
    if tracing is None:
        yield Sending(jobs)
        return
    spans = [_start(tracing, job) for job in jobs]
    told = Sending([_with_trace(job, span) for job, span in zip(jobs, spans, strict=True)])
    try:
        yield told
    except BaseException as error:
        for span in spans:
            tracing.end(span, error=names.code_of(error))
        raise
    for job, span in zip(jobs, spans, strict=True):
        verdict = told.verdicts.get(job.id, "")
        span.set_attribute(names.VERDICT, verdict)
        tracing.end(span, error=_REFUSED.get(verdict))


def _start(tracing: Tracing, prepared: PreparedJob) -> Span:
    job = prepared.job
    about = names.message("send", job.id, job.lane)
    if job.batch:
        about[names.BATCH] = job.batch
    if job.tenant:
        about[names.TENANT] = job.tenant
    return tracing.start(f"send {job.lane}", "producer", Traceparent.parse(prepared.trace), attributes=about)


def _with_trace(job: PreparedJob, span: Span) -> PreparedJob:
    from vqa.tracing.otel import traceparent

    return replace(job, trace=str(traceparent(span.get_span_context())))


def current_trace() -> str | None:
    """Return the traceparent of the span that the caller is in, if this process traces."""
    tracing = active()
    current = tracing.current() if tracing else None
    return str(current) if current else None


def note_received(tracing: Tracing, job_id: str, outcome: bytes) -> None:
    """Record that this process has read a job's outcome, if the job has a trace."""
    parent = Traceparent.parse(trace_of(outcome))
    if parent is not None and parent.sampled:
        about = {names.MESSAGING_SYSTEM: names.SYSTEM, names.MESSAGING_ID: job_id}
        about |= {names.MESSAGING_OPERATION: "receive answer", names.MESSAGING_OPERATION_TYPE: "receive"}
        tracing.start("receive answer", "client", parent, attributes=about).end()
