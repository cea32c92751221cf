"""A producer's link to the queue: each method is one short exchange with Redis. Threads may share one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from redis import Redis
from redis.exceptions import OutOfMemoryError

from producer.client.capacity import Holdup, Offered, Room, memory_full, rest_of
from producer.client.dead_letters import DeadLetters
from producer.client.outage import reaching
from producer.client.states import (
    Found,
    JobState,
    Look,
    parse_look,
    parse_states,
    queue_look,
    queue_states,
    reply_list,
    unknown,
)
from producer.client.submission import Submission, chunks, prepare
from producer.client.waiters import closed
from vqa.celery import make_app, wake
from vqa.connection import PATIENCE_S, UNREACHED, cause_of, connect
from vqa.errors import Cancelled, DeadlineExceeded, QueueFull, QueueUnavailable
from vqa.image_store import image_key
from vqa.job import Job, Lane
from vqa.ledger.closing import Closing
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import State, WorkerInfo
from vqa.results import encode
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)


class Link:
    """Submits, looks, cancels. Where it does not say otherwise, it raises QueueUnavailable when Redis fails it."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.reply_list = reply_list()
        self.redis = connect(settings, min(PATIENCE_S, settings.redis_timeout_s))
        self._ledger = Ledger(self.redis, settings.limits)
        self._app = make_app(settings)
        self._closing = Closing(self._app, self._ledger, settings.result_ttl_s)
        self._room = Room(self.redis, settings)
        self._dead = DeadLetters(self.redis, self._ledger, self._app)
        #: set before anything is closed
        self.closing = threading.Event()
        #: whether Redis did its part the last time
        self._reached = True
        self.backend = self._app.backend

    def close(self, failing: bool) -> None:
        """Give the connections back; the reply list goes too, or expires where Redis fails whoever waits."""
        self.closing.set()
        # one that is silent would cost its whole time once more
        if self._reached and not failing:
            with suppress(*UNREACHED):
                self.redis.delete(self.reply_list)
        self.redis.close()
        self._app.close()

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Around an exchange. Raises QueueUnavailable."""
        try:
            with reaching(self.settings), self._open():
                yield
        except QueueUnavailable:
            self._reached = False
            raise
        self._reached = True

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Raises RuntimeError in place of whatever happens in a client that was closed meanwhile."""
        try:
            yield
        except Exception:
            if self.closing.is_set():
                raise closed() from None
            raise

    def submit(self, job: Job) -> None:
        """Put a job on the queue. Raises QueueFull."""
        offered = self.reach([job])
        if offered.why:
            raise offered.why

    def reach(self, jobs: Sequence[Job]) -> Offered:
        """`offer`, raising QueueUnavailable."""
        with self.reaching():
            return self.offer(jobs)

    def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Submit in chunks, waiting while there is no room; the ids in order."""
        ids: list[str] = []
        holdup = Holdup()
        for chunk in chunks(jobs):
            ids += [job.id for job in chunk]
            rest: Sequence[Job] = chunk
            while rest:
                offered = self.reach(rest)
                if offered.rest and self.closing.wait(holdup.pause_s(offered, len(rest))):
                    raise closed()
                rest = offered.rest
        return ids

    def offer(self, jobs: Sequence[Job]) -> Offered:
        """Submit as many of the jobs as there is room for. Raises one of connection.UNREACHED.

        The images are kept, the jobs accepted, their wake-ups sent, in this order, each in one round trip. Offering
        jobs again that were accepted is harmless.
        """
        with self._open():
            refused = dict(self._room.turned_away(jobs))
            if let_in := [job for job in jobs if job.id not in refused]:
                try:
                    refused |= self._accept(let_in)
                except OutOfMemoryError:
                    refused |= dict.fromkeys((job.id for job in let_in), memory_full())
            return rest_of(jobs, refused)

    def _accept(self, jobs: Sequence[Job]) -> Mapping[str, QueueFull]:
        submission = prepare(jobs, self.settings, self.reply_list)
        self._keep_images(submission)
        verdicts = self._ledger.accept_many(submission.calls)
        outcomes = list(zip(submission.wakeups, verdicts, strict=True))
        self._cancel([id for (id, _), verdict in outcomes if verdict == "over"])
        # one that is open may have lost its message; a message too many is refused by the ledger
        self._wake([wakeup for wakeup, verdict in outcomes if verdict in ("accepted", "open")])
        return {id: self._room.lane_full(lane) for (id, lane), verdict in outcomes if verdict == "full"}

    def _cancel(self, ids: Sequence[str]) -> None:
        """Write how jobs ended that were not let in: whoever waits for them, now or later, finds it as any other."""
        if not ids:
            return
        error = Cancelled("its batch was cancelled before the job was accepted")
        with self.redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.set(outcome_key(id), encode(self.backend, id, error), ex=self.settings.result_ttl_s, nx=True)
            pipe.execute()

    def _wake(self, wakeups: Sequence[tuple[str, Lane]]) -> None:
        if not wakeups:
            return
        try:
            wake(self._app, wakeups)
        except UNREACHED as error:
            if not isinstance(cause_of(error), OutOfMemoryError):
                raise
            # they are accepted, so it is too late to refuse them
            log.warning("Redis is full: %d accepted jobs are published by the janitor", len(wakeups))

    def _keep_images(self, submission: Submission) -> None:
        if submission.keep_s:
            with self.redis.pipeline(transaction=False) as pipe:
                submission.queue_images(pipe)
                submission.check_images(pipe.execute())

    def look(self, ids: Sequence[str], redis: Redis) -> dict[str, Found]:
        """How those of `ids` ended that are not open any more. Raises one of connection.UNREACHED."""
        with self._open():
            look = _look(redis, ids)
            again = _look(redis, look.unknown) if look.unknown else look
            found = look.found | again.found | {id: unknown(id) for id in again.unknown}
            return found | self.close_overdue({*look.overdue, *again.overdue})

    def close_overdue(self, ids: Iterable[str]) -> dict[str, Found]:
        """End jobs past their deadline that no worker and no janitor ended: perhaps none is up. Raises as `look`."""
        overdue = list(ids)
        if not overdue:
            return {}
        why = "the job's timeout ran out and no worker said so; are workers up?"
        self._closing.close_all(overdue, DeadlineExceeded(why))
        outcomes = cast(list[bytes | None], self.redis.mget(map(outcome_key, overdue)))
        return {id: unknown(id) if outcome is None else outcome for id, outcome in zip(overdue, outcomes, strict=True)}

    def cancel(self, id: str) -> bool:
        """Close an open job with Cancelled; False where it is not open."""
        return bool(self.cancel_many([id]))

    def cancel_many(self, ids: Sequence[str]) -> list[str]:
        """Close those of `ids` that are open with Cancelled; which they were."""
        with self.reaching():
            return self._closing.close_all(ids, Cancelled("the job was cancelled by a producer"))

    def forget(self, ids: Sequence[str]) -> None:
        """Delete outcomes."""
        if ids:
            with self.reaching():
                self.redis.delete(*map(outcome_key, ids))

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Where each of `ids` stands."""
        if not ids:
            return {}
        with self.reaching(), self.redis.pipeline(transaction=False) as pipe:
            queue_states(pipe, ids)
            return parse_states(self.backend, ids, pipe.execute())

    def counts(self) -> dict[Lane, dict[State, int]]:
        """How many jobs are open, by lane and state."""
        with self.reaching():
            return self._ledger.counts()

    def workers(self) -> list[WorkerInfo]:
        """The workers that have renewed within the lease time."""
        with self.reaching():
            return self._ledger.workers(self.settings.lease_s)

    @contextmanager
    def dead_letters(self) -> Iterator[DeadLetters]:
        """The dead letters; inside, whatever Redis and kombu raise is QueueUnavailable."""
        with self.reaching():
            yield self._dead

    def image_sizes(self, references: Sequence[str]) -> dict[str, int | None]:
        """Bytes of images in the store; None where it has none of that reference."""
        with self.reaching(), self.redis.pipeline(transaction=False) as pipe:
            for name in references:
                pipe.strlen(image_key(name))
            return {name: size or None for name, size in zip(references, pipe.execute(), strict=True)}


def _look(redis: Redis, ids: Sequence[str]) -> Look:
    with redis.pipeline(transaction=False) as pipe:
        queue_look(pipe, ids)
        return parse_look(ids, pipe.execute())
