"""Policies around the answering of a job, as in dramatiq's middleware: the answer cache is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from vqa.answer import Answer
from vqa.errors import VQAError
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome


class AttemptMiddleware(Protocol):
    """A policy with a hook before a job is answered and one after; used by all task threads at once."""

    def before(self, job: Job, lease: Lease) -> Answer | None:
        """Return the job's answer to skip later middleware, the engine and this policy's own `after`; else None."""

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        """Return the outcome of the attempt, changed or not."""


def run(
    middleware: Sequence[AttemptMiddleware], job: Job, lease: Lease, answer: Callable[[Job, Lease], Answer]
) -> Outcome:
    """Call `answer` inside the middleware, the first one outermost. A VQAError that it raises is an outcome."""
    if not middleware:
        try:
            return answer(job, lease)
        except VQAError as error:
            return error
    first, *rest = middleware
    early = first.before(job, lease)
    return first.after(job, lease, run(rest, job, lease, answer)) if early is None else early
