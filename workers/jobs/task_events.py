"""What Flower shows of a job besides its id and state: never a question, an answer or an image.

A message carries an id alone, so that Celery's own event, when it gives the message to a thread, cannot tell more.
Events wait until the job is taken, which also keeps messages that are refused from looking like jobs that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from vqa.answer import Answer
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome

Tell = Callable[[Mapping[str, Any]], None]

#: of the message that this thread handles
_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Tell | None) -> Iterator[None]:
    """Call `tell` with what is shown of the job that is taken inside the block."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


class TaskEvents:
    """Middleware that tells that a job has been taken, before anything is done about it."""

    def before(self, job: Job, lease: Lease) -> Answer | None:
        if (tell := _tell.get()) is not None:
            tell(shown(job, lease))
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        return outcome


def shown(job: Job, lease: Lease) -> dict[str, Any]:
    """Return what is shown of a job."""
    header = lease.header
    images = sum(1 for _ in job.contents())
    told = {"lane": header.lane, "tenant": header.tenant, "images": images, "model": header.model}
    told |= {"batch": header.batch, "attempt": int(header.attempt)}
    return {name: value for name, value in told.items() if value not in (None, "")}
