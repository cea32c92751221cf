"""`client.batches` and `client.dead_letters`, and the method names that they replace."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from producer.client.batches import Answers, Batch, BatchSubmission, RowLike
from producer.client.dead_letters import DeadLetter, TimeOrAge, Verdict
from producer.client.job_queue import JobQueue
from vqa.job import Lane
from vqa.ledger.batches import Batches, BatchState


def _warn(old: str, new: str) -> None:
    warnings.warn(f"client.{old} is deprecated; use client.{new}", DeprecationWarning, stacklevel=3)


class DeprecatedCall:
    """Makes the former methods `client.batches(...)` and `client.dead_letters(...)` work, which list."""

    _name: str

    if not TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            _warn(f"{self._name}()", f"{self._name}.list()")
            return self.list(*args, **kwargs)


_RENAMED = {
    "submit_batch": "batches.create",
    "batch": "batches.retrieve",
    "dead_letter": "dead_letters.get",
    "count_dead": "dead_letters.count",
    "retry_dead": "dead_letters.retry",
    "purge_dead": "dead_letters.purge",
    "picture_sizes": "image_sizes",
}


class DeprecatedMethods:
    """The clients' former method names, for one release."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in _RENAMED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _warn(name, _RENAMED[name])
            return operator.attrgetter(_RENAMED[name])(self)


class BatchesResource(DeprecatedCall):
    """`client.batches`: rows submitted together, which are answered even if this client ends."""

    _name = "batches"

    def __init__(self, queue: JobQueue, answers: Answers) -> None:
        self._queue = queue
        self._answers = answers

    def create(
        self,
        rows: Iterable[RowLike],
        *,
        lane: Lane = "bulk",
        tenant: str | None = None,
        input: str = "",
        within_s: float | None = None,
        **defaults: Any,
    ) -> Batch:
        """Put all rows on the queue as one batch.

        A row is a Job, or a mapping with "id", "question" and "image" (or "messages") and any other fields of a job;
        `defaults` are fields for rows that lack them. Rows still open after `within_s` expire. Raises QueueFull,
        InvalidJob or BadImage; then no row is left on the queue.
        """
        return self.retrieve(BatchSubmission(lane, tenant, input, within_s).send(self._queue, rows, defaults))

    def retrieve(self, id: str) -> Batch:
        """Return a handle to any client's batch; no I/O."""
        return Batch(id, self._queue, self._answers)

    def cancel(self, id: str) -> int:
        return self.retrieve(id).cancel()

    def list(self, limit: int = 100) -> list[BatchState]:
        """Return the newest batches."""
        with self._queue.redis_errors():
            return Batches(self._queue.redis).newest(limit)


class DeadLettersResource(DeprecatedCall):
    """`client.dead_letters`: jobs that were given up, and messages that were not jobs."""

    _name = "dead_letters"

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def get(self, id: str) -> DeadLetter | None:
        """Return a dead letter, or None if no dead letter has that id."""
        with self._queue.dead_letters() as dead:
            return dead.read([id]).get(id)

    def count(self) -> int:
        """Count the dead letters."""
        with self._queue.dead_letters() as dead:
            return dead.count(self._queue.settings.dead_ttl_s)

    def retry(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Reopen dead letters as jobs: same id and history, new timeout, attempts from 0. Return each id's result.

        Deletes their old outcomes, so `client.answer` waits for the new ones.
        """
        with self._queue.dead_letters() as dead:
            return dead.retry(ids)

    def purge(self, ids: Iterable[str]) -> int:
        """Delete dead letters and return how many existed. Their outcomes are kept until they expire."""
        with self._queue.dead_letters() as dead:
            return dead.purge(ids)

    def list(
        self,
        reason: str | None = None,
        since: TimeOrAge | None = None,
        before: TimeOrAge | None = None,
        limit: int | None = 100,
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; `limit=None` returns all.

        `since` and `before` are points in time, or ages by Redis's clock as timedeltas.
        """
        with self._queue.dead_letters() as dead:
            return dead.newest(reason, since, before, limit)
