"""A producer's link to the queue: each method is one short exchange with Redis. Threads may share one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from producer.core import (
    Found,
    Submission,
    chunks,
    parse_look,
    prepare,
    queue_look,
    reaching,
    reply_list,
    unknown,
)
from producer.states import JobState, parse_states, queue_states
from vqa.celery import make_app, wake
from vqa.connection import UNREACHED, connect
from vqa.errors import Cancelled, DeadlineExceeded, PermanentError
from vqa.job import Job, Lane
from vqa.ledger import Ledger, State, WorkerInfo, outcome_key
from vqa.outcome import close_with
from vqa.settings import QueueSettings


class Link:
    """Submits, looks, cancels. Raises QueueUnavailable whenever Redis does not do its part."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.reply_list = reply_list()
        self.redis = connect(settings)
        self._ledger = Ledger(self.redis)
        self._app = make_app(settings)
        self.backend = self._app.backend

    def close(self) -> None:
        """Give the connections back; the reply list goes too, or expires."""
        with suppress(*UNREACHED):
            self.redis.delete(self.reply_list)
        self.redis.close()
        self._app.close()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Keep the pictures, accept the jobs, send their wake-ups, in this order, each in one round trip."""
        submission = prepare(jobs, self.settings, self.reply_list)
        with reaching(self.settings):
            self._keep_pictures(submission)
            verdicts = self._ledger.accept_many(submission.calls)
            wakeups = zip(submission.wakeups, verdicts, strict=True)
            # one that is open may have lost its message; a message too many is refused by the ledger
            wake(self._app, [wakeup for wakeup, verdict in wakeups if verdict != "closed"])

    def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Submit in chunks; the ids in order."""
        ids = []
        for chunk in chunks(jobs):
            self.submit(chunk)
            ids += [job.id for job in chunk]
        return ids

    def _keep_pictures(self, submission: Submission) -> None:
        if submission.keep_s:
            with self.redis.pipeline(transaction=False) as pipe:
                submission.queue_pictures(pipe)
                submission.check_pictures(pipe.execute())

    def look(self, ids: Sequence[str]) -> dict[str, Found]:
        """How those of `ids` ended that are not open any more."""
        with reaching(self.settings):
            with self.redis.pipeline() as pipe:
                queue_look(pipe, ids)
                found, overdue = parse_look(ids, pipe.execute())
            return found | self.close_overdue(overdue)

    def close_overdue(self, ids: Sequence[str]) -> dict[str, Found]:
        """End jobs past their deadline that no worker and no janitor ended: perhaps none is up."""
        found: dict[str, Found] = {}
        with reaching(self.settings):
            for id in ids:
                self._end(id, DeadlineExceeded("the job's timeout ran out and no worker said so; are workers up?"))
                outcome = cast(bytes | None, self.redis.get(outcome_key(id)))
                found[id] = unknown(id) if outcome is None else outcome
        return found

    def cancel(self, id: str) -> bool:
        """Close an open job with Cancelled; False where it is not open."""
        with reaching(self.settings):
            return self._end(id, Cancelled("the job was cancelled by a producer"))

    def _end(self, id: str, error: PermanentError) -> bool:
        return close_with(self._ledger, self.backend, id, error, self.settings.result_ttl_s)

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Where each of `ids` stands."""
        if not ids:
            return {}
        with reaching(self.settings), self.redis.pipeline() as pipe:
            queue_states(pipe, ids)
            return parse_states(self.backend, ids, cast(Any, pipe.execute()))

    def counts(self) -> dict[Lane, dict[State, int]]:
        """How many jobs are open, by lane and state."""
        with reaching(self.settings):
            return self._ledger.counts()

    def workers(self) -> list[WorkerInfo]:
        """The workers that have renewed within the lease time."""
        with reaching(self.settings):
            return self._ledger.workers(self.settings.lease_s)
