"""Names the job in the log lines of its attempt."""

from __future__ import annotations

from contextlib import AbstractContextManager

from vqa.ledger.records import Lease
from vqa.log.context import logging_about
from vqa.tracing.traceparent import Traceparent


def logging_about_job(lease: Lease) -> AbstractContextManager[None]:
    """Add the job, its tenant, attempt and trace to the lines that its thread logs inside the block."""
    header = lease.header
    trace = Traceparent.parse(header.trace)
    return logging_about(
        job_id=lease.id,
        tenant=header.tenant or None,
        attempt=int(header.attempt),
        trace_id=trace.trace_id if trace else None,
    )
