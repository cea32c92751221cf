"""The spans of attempts: their ids, and those of attempts whose worker vanished, which others record."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vqa.errors import VQAError
from vqa.ledger.records import AttemptRecord, Header
from vqa.tracing import attributes as names
from vqa.tracing.traceparent import Traceparent

if TYPE_CHECKING:
    from vqa.tracing.otel import Tracing

#: hexadecimal digits of a span's id, which are not all 0
_DIGITS = 16
_SPAN_ID = re.compile(f"(?!0{{{_DIGITS}}})[0-9a-f]{{{_DIGITS}}}")

#: further away is no time of a job, but a damaged one: ten years
_MOST_MS = 10 * 365 * 86_400_000

#: how the error of an attempt begins whose worker vanished (vqa/ledger/sweep.py)
_LOST = "WorkerLost:"


@dataclass(frozen=True, slots=True)
class Clock:
    """Turns times in ms on Redis's clock into ns on this machine's."""

    #: the same moment on both
    redis_ms: int
    own_ns: int

    @classmethod
    def from_redis(cls, now_ms: int) -> Clock:
        """`now_ms` is what Redis's clock said just now."""
        return cls(int(now_ms), time.time_ns())

    def ns(self, redis_ms: float) -> int:
        ago_ms = min(max(self.redis_ms - redis_ms, -_MOST_MS), _MOST_MS)
        return self.own_ns - int(ago_ms * 1_000_000)


def attempt_span(token: str) -> str:
    """Return the span id of an attempt, by which others can name it: the beginning of its lease's token."""
    return token[:_DIGITS]


def own_trace(job_id: str) -> str:
    """Return the trace id of a job whose producer gave it none: the same for all of its attempts."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def earlier_attempts(job_id: str, header: Header) -> list[Traceparent]:
    """Return the spans of the job's attempts that ended without an outcome, oldest first."""
    parent = Traceparent.parse(header.trace)
    trace_id, flags = (parent.trace_id, parent.flags) if parent else (own_trace(job_id), 1)
    return [Traceparent(trace_id, attempt_span(each.token or ""), flags) for each in header.history if _has_span(each)]


def record_lost(tracing: Tracing, job_id: str, header: Header, clock: Clock) -> None:
    """Record the newest attempts whose workers vanished before they could record them.

    To be called at the end of the attempt that follows them, or by whoever closes the job without one. So each is
    recorded once, however many workers vanish one after the other.
    """
    for lost, before in _newest_lost(header):
        _record_lost(tracing, job_id, header, clock, lost, before)


def record_closed(tracing: Tracing, job_id: str, header: Header, clock: Clock, error: VQAError) -> None:
    """Record that a job was closed by somebody who does not hold it, and the attempts that nobody else records."""
    parent = Traceparent.parse(header.trace)
    if parent is None or not parent.sampled:
        return
    if header.state != "leased":
        record_lost(tracing, job_id, header, clock)
    elif header.alone:
        # its last attempt, which is over now
        token = header.token or ""
        last = AttemptRecord(header.attempt, header.worker or "", header.taken or 0, clock.redis_ms, _LOST, token)
        record_lost(tracing, job_id, replace(header, history=(*header.history, last)), clock)
    about = names.message("settle", job_id, header.lane) | {names.OUTCOME: error.code()}
    span = tracing.start(f"settle {header.lane}", "client", parent, at_ns=clock.own_ns, attributes=about)
    tracing.end(span, error=error.code())


def _newest_lost(header: Header) -> Iterator[tuple[AttemptRecord, AttemptRecord | None]]:
    """Yield the attempts since the last one that told of itself, each with the one before it."""
    past = header.history
    for index in range(len(past) - 1, -1, -1):
        if not past[index].error.startswith(_LOST):
            return
        if _has_span(past[index]):
            yield past[index], past[index - 1] if index else None


def _record_lost(
    tracing: Tracing, job_id: str, header: Header, clock: Clock, lost: AttemptRecord, before: AttemptRecord | None
) -> None:
    parent = Traceparent.parse(header.trace)
    about = names.message("process", job_id, header.lane) | {
        names.ATTEMPT: int(lost.attempt),
        names.WORKER: lost.worker,
        names.OUTCOME: "lost",
    }
    links = earlier_attempts(job_id, header)
    own, at_ns = attempt_span(lost.token or ""), clock.ns(lost.taken)
    span = tracing.start(
        f"process {header.lane}",
        "consumer",
        parent,
        at_ns=at_ns,
        attributes=about,
        links=[each for each in links if before is not None and each.span_id == attempt_span(before.token or "")],
        trace_id=None if parent else own_trace(job_id),
        span_id=own,
    )
    tracing.end(span, clock.ns(lost.ended), "worker_lost")
    if parent:
        record_wait(tracing, job_id, header, parent, clock.ns(before.ended if before else header.accepted), at_ns)


def record_wait(tracing: Tracing, job_id: str, header: Header, parent: Traceparent, since_ns: int, at_ns: int) -> None:
    """Record how long a job waited for an attempt, delays before a retry included."""
    about = names.message("receive", job_id, header.lane)
    tracing.record(f"queue {header.lane}", "internal", parent, since_ns, at_ns, attributes=about)


def _has_span(attempt: AttemptRecord) -> bool:
    # a token may be damaged, as anything in Redis
    return isinstance(attempt.token, str) and bool(_SPAN_ID.match(attempt.token))
