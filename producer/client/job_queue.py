"""A producer's view of the queue: each method is one short exchange with Redis. Thread-safe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import cast

from redis import Redis
from redis.exceptions import OutOfMemoryError

from producer.client.capacity import Backoff, Capacity, Offered, memory_full
from producer.client.cursor import Cursor
from producer.client.dead_letters import DeadLetters
from producer.client.outage import redis_errors
from producer.client.sending import sending
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
from producer.client.submission import PreparedJob, arriving_chunks, prepare, stored_ids
from producer.client.timeline import Timeline, parse_timeline, queue_timeline
from producer.client.url_images import UrlImages
from producer.client.waiters import closed
from producer.images.reader import ImageReader
from producer.images.shrink import Shrink
from producer.images.shrinker import Shrinker
from producer.images.stored import resolve
from vqa.celery import make_app, wake
from vqa.errors import Cancelled, DeadlineExceeded, QueueFull
from vqa.fetch.settings import FetchSettings
from vqa.forks import restart_in_children
from vqa.images.store import ImageStore
from vqa.images.stores.contents import StoreFull
from vqa.inbox import inbox_length
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.closing import Closing
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import State, WorkerInfo
from vqa.redis.connection import REDIS_ERRORS, RETRY_S, cause_of, connect
from vqa.results import encode
from vqa.routing import queue_name
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)


class JobQueue:
    """Submits, looks up and cancels jobs. Unless noted, methods raise QueueUnavailable if Redis fails."""

    def __init__(
        self, settings: QueueSettings, fetch: FetchSettings | None = None, shrink: Shrink | None = None
    ) -> None:
        self.settings = settings
        #: of images that jobs name by URL
        self.reader = ImageReader(settings, fetch)
        if shrink is not None:
            self.reader.shrinker = Shrinker(shrink, settings.image_limits, self.workers)
        #: set before anything is closed
        self.closing = threading.Event()
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Prepare connections and a reply list; a forked child calls it again, because the parent's are not its own."""
        settings, was_closed = self.settings, self.closing.is_set()
        # a thread that the child does not have may hold the lock of the parent's
        self.closing = threading.Event()
        if was_closed:
            self.closing.set()
        self.reply_list = reply_list()
        self.redis = connect(settings, min(RETRY_S, settings.redis_timeout_s))
        self._ledger = Ledger(self.redis, settings.limits)
        self._app = make_app(settings)
        self._closing = Closing(self._app, self._ledger, settings.result_ttl_s)
        self._capacity = Capacity(self.redis, settings)
        self.models = ModelRegistry(self.redis, settings.model_keep_s, settings.lease_s)
        self._dead = DeadLetters(self.redis, self._ledger, self._app, settings.images_keep_s)
        self.images = ImageStore.open(self.redis, settings.images_url, settings.images_keep_s)
        self.backend = self._app.backend

    def close(self) -> None:
        """Close the connections, without a word to Redis, which may be silent; an unread reply list expires."""
        self.closing.set()
        self.reader.close()
        self.redis.close()
        self._app.close()

    @contextmanager
    def redis_errors(self) -> Iterator[None]:
        """Raise QueueUnavailable in place of errors of Redis and kombu."""
        with redis_errors(self.settings), self._unless_closed():
            yield

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Raise RuntimeError if the client is closed, and in place of any error if it was closed meanwhile."""
        if self.closing.is_set():
            raise closed()
        try:
            yield
        except Exception:
            if self.closing.is_set():
                raise closed() from None
            raise

    def submit(self, job: Job, stream: bool = False, trace: str | None = None) -> None:
        """Put a job on the queue, with its images fetched. Raises QueueFull, and InvalidJob if the trace is none."""
        [ready] = UrlImages(self.reader).ready([[PreparedJob(job, stream=stream, trace=trace)]])
        offered = self.submit_chunk(ready)
        if offered.error:
            raise offered.error

    def submit_chunk(self, jobs: Sequence[PreparedJob]) -> Offered:
        """Do as `offer`, raising QueueUnavailable."""
        with self.redis_errors():
            return self.offer(jobs)

    def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Submit in chunks, waiting while the queue is full; return the ids in order."""
        ids: list[str] = []
        backoff = Backoff()
        with closing(UrlImages(self.reader).ready(arriving_chunks(jobs))) as all_chunks:
            for chunk in all_chunks:
                if self.closing.is_set():
                    raise closed()
                ids += [job.id for job in chunk]
                rest: Sequence[PreparedJob] = chunk
                while rest:
                    offered = self.submit_chunk(rest)
                    if offered.rest and self.closing.wait(backoff.pause_s(offered, len(rest))):
                        raise closed()
                    rest = offered.rest
        return ids

    def offer(self, jobs: Sequence[PreparedJob]) -> Offered:
        """Submit as many of the jobs as the queue has capacity for. Raises one of connection.REDIS_ERRORS.

        Stores the images, accepts the jobs, then publishes their messages, each in one round trip. Offering accepted
        jobs again is harmless. Raises ModelNotFound, before anything is sent, for a model that no worker serves.
        """
        with self._unless_closed():
            errors = dict(self._capacity.refusals(jobs))
            if admitted := [job for job in jobs if job.id not in errors]:
                try:
                    errors |= self._accept(admitted)
                except OutOfMemoryError:
                    errors |= dict.fromkeys((job.id for job in admitted), memory_full())
                except StoreFull as error:
                    errors |= dict.fromkeys((job.id for job in admitted), QueueFull(str(error)))
            return Offered.from_refusals(jobs, errors)

    def _accept(self, jobs: Sequence[PreparedJob]) -> Mapping[str, QueueFull]:
        routes = self.models.route(prepared.job for prepared in jobs)
        verdicts = self.accept(jobs, routes)
        # an open job may have lost its message; the ledger ignores a superfluous one
        woken = (job for job in jobs if verdicts[job.id] in ("accepted", "open"))
        self._publish([(job.id, queue_name(job.lane, routes.get(job.id))) for job in woken])
        return {job.id: self._capacity.lane_full(job.lane) for job in jobs if verdicts[job.id] == "full"}

    def accept(self, jobs: Sequence[PreparedJob], routes: Mapping[str, str] | None = None) -> dict[str, str]:
        """Store the images, and accept the jobs without publishing messages; return the ledger's verdicts by id.

        `routes` are the models that jobs go to, by id. Raises ImageMissing, or one of connection.REDIS_ERRORS.
        """
        references = resolve(self.redis, stored_ids(jobs))
        with sending(jobs) as sent:
            resolved = [job.with_references(references) for job in sent.jobs]
            submission = prepare(resolved, self.settings, self.reply_list, routes or {})
            submission.store_images(self.images)
            verdicts = dict(zip((job.id for job in jobs), self._ledger.accept_many(submission.commands), strict=True))
            sent.verdicts = verdicts
        self._write_cancelled([id for id, verdict in verdicts.items() if verdict == "over"])
        return verdicts

    def _write_cancelled(self, ids: Sequence[str]) -> None:
        """Write the outcome of jobs that were refused because their batch was cancelled."""
        if not ids:
            return
        error = Cancelled("its batch was cancelled before the job was accepted")
        with self.redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.set(outcome_key(id), encode(self.backend, id, error), ex=self.settings.result_ttl_s, nx=True)
            pipe.execute()

    def _publish(self, wakeups: Sequence[tuple[str, str]]) -> None:
        if not wakeups:
            return
        try:
            wake(self._app, wakeups)
        except REDIS_ERRORS as error:
            if not isinstance(cause_of(error), OutOfMemoryError):
                raise
            # the ledger has accepted them: too late for a refusal
            log.warning("Redis is full: %d accepted jobs wait to be published by the janitor", len(wakeups))

    def look(self, ids: Sequence[str], redis: Redis, cursors: Sequence[Cursor] = ()) -> Look:
        """Find the outcomes of those of `ids` that are not open. Raises one of connection.REDIS_ERRORS."""
        with self._unless_closed():
            look = _look(redis, ids, cursors)
            again = _look(redis, look.unknown) if look.unknown else look
            found = look.found | again.found | {id: unknown(id) for id in again.unknown}
            found |= self.close_overdue({*look.overdue, *again.overdue})
            return Look(found, [], [], look.entries)

    def close_overdue(self, ids: Iterable[str]) -> dict[str, Found]:
        """Close jobs past their deadline that neither worker nor janitor closed. Raises one of connection.REDIS_ERRORS.

        Without this a job would never end while no worker is up.
        """
        overdue = list(ids)
        if not overdue:
            return {}
        error = DeadlineExceeded("the job's timeout expired and no worker reported it; check that workers are up")
        self._closing.close_all(overdue, error)
        outcomes = cast(list[bytes | None], self.redis.mget(map(outcome_key, overdue)))
        return {id: unknown(id) if outcome is None else outcome for id, outcome in zip(overdue, outcomes, strict=True)}

    def cancel(self, id: str) -> bool:
        """Close an open job with Cancelled; return False if it was not open."""
        return bool(self.cancel_many([id]))

    def cancel_many(self, ids: Sequence[str]) -> list[str]:
        """Close the open jobs among `ids` with Cancelled; return their ids."""
        with self.redis_errors():
            return self._closing.close_all(ids, Cancelled("the job was cancelled by a producer"))

    def forget(self, ids: Sequence[str]) -> None:
        """Delete outcomes."""
        if ids:
            with self.redis_errors():
                self.redis.delete(*map(outcome_key, ids))

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        if not ids:
            return {}
        with self.redis_errors(), self.redis.pipeline(transaction=False) as pipe:
            queue_states(pipe, ids)
            return parse_states(self.backend, ids, pipe.execute())

    def timeline(self, id: str) -> Timeline:
        with self.redis_errors(), self.redis.pipeline(transaction=False) as pipe:
            queue_timeline(pipe, id)
            return parse_timeline(self.backend, id, pipe.execute(raise_on_error=False))

    def counts(self) -> dict[Lane, dict[State, int]]:
        with self.redis_errors():
            return self._ledger.counts()

    def inbox_length(self) -> int:
        """Return the number of entries of other programs that are no jobs yet."""
        with self.redis_errors():
            return inbox_length(self.redis)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that have renewed within the lease time."""
        with self.redis_errors():
            return self._ledger.workers(self.settings.lease_s)

    @contextmanager
    def dead_letters(self) -> Iterator[DeadLetters]:
        """Give access to the dead letters; errors of Redis and kombu inside become QueueUnavailable."""
        with self.redis_errors():
            yield self._dead

    def image_sizes(self, references: Sequence[str]) -> dict[str, int | None]:
        with self.redis_errors():
            return dict(self.images.sizes(references))


def _look(redis: Redis, ids: Sequence[str], cursors: Sequence[Cursor] = ()) -> Look:
    with redis.pipeline(transaction=False) as pipe:
        queue_look(pipe, ids, cursors)
        return parse_look(ids, pipe.execute(raise_on_error=False), cursors)
