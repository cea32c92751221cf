"""Puts the rows of a batch on the queue; each step can be repeated by another process. For threads.

Methods raise QueueUnavailable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from producer.client.capacity import Offered
from producer.client.job_queue import JobQueue
from producer.client.submission import PreparedJob, chunks
from producer.gateway.batches.record import BatchRecord
from producer.gateway.batches.rows import BatchRow
from producer.gateway.chat.echo_models import answer_at_once
from vqa.errors import DeadlineExceeded, ImageMissing, ModelNotFound, QueueFull, VQAError
from vqa.ledger.batch_state import EXPIRED_CODE
from vqa.ledger.batches import Batches
from vqa.ledger.commands import entry_key, outcome_key
from vqa.results import encode


class Submitter:
    """Submits rows of one batch."""

    def __init__(self, queue: JobQueue, batch: BatchRecord) -> None:
        self._queue = queue
        self._batch = batch
        self._batches = Batches(queue.redis)
        #: rows that never became jobs, by code, since the last `record`
        self.bad: Counter[str] = Counter()

    def submit(self, rows: Sequence[BatchRow]) -> tuple[list[BatchRow], Offered]:
        """Offer the rows; return those that the queue had no room for. Write the outcome of rows without a job."""
        rows = self._routed(rows)
        self._refuse({row.id: row.error for row in rows if row.error is not None})
        full: dict[str, QueueFull] = {}
        for model in {row.test_model for row in rows if row.job is not None}:
            jobs = [row.job for row in rows if row.job is not None and row.test_model == model]
            for chunk in chunks(jobs):
                full |= self._offer(chunk, model)
        rest = [row for row in rows if row.id in full]
        offered = Offered.from_refusals([row.job for row in rows if row.job is not None], full)
        return rest, offered

    def _routed(self, rows: Sequence[BatchRow]) -> list[BatchRow]:
        """Return the rows with the models that they name, or with why there is no such model."""
        with self._queue.redis_errors():
            return [self._with_model(row) for row in rows]

    def _with_model(self, row: BatchRow) -> BatchRow:
        if row.job is None or row.model is None:
            return row
        try:
            name = self._queue.models.named(row.model, counts=False)
        except ModelNotFound as error:
            return replace(row, job=None, error=error)
        return row if name is None else replace(row, job=replace(row.job, job=row.job.job.for_model(name)))

    def _offer(self, jobs: Sequence[PreparedJob], model: str | None) -> dict[str, QueueFull]:
        """Return the error of each job that the queue had no room for, by id."""
        try:
            if model is not None:
                with self._queue.redis_errors():
                    return dict(answer_at_once(self._queue, jobs, model))
            offered = self._queue.submit_chunk(jobs)
            return dict.fromkeys((job.id for job in offered.rest), offered.error) if offered.error else {}
        except (ImageMissing, ModelNotFound) as error:
            # nothing of the chunk was accepted; halves of it find the row
            if len(jobs) == 1:
                self._refuse({jobs[0].id: error})
                return {}
            middle = len(jobs) // 2
            return self._offer(jobs[:middle], model) | self._offer(jobs[middle:], model)

    def expire(self, rows: Iterable[BatchRow]) -> None:
        """Write the outcome of rows that the batch has no time for."""
        error = DeadlineExceeded("the batch expired before the row was sent")
        self._refuse({row.id: row.error or error for row in rows})

    def _refuse(self, errors: Mapping[str, VQAError]) -> None:
        if not errors:
            return
        with self._queue.redis_errors(), self._queue.redis.pipeline(transaction=False) as pipe:
            for id in errors:
                pipe.exists(entry_key(id))
            # an earlier process may have made a job of it
            for (id, error), is_open in zip(errors.items(), pipe.execute(), strict=True):
                if not is_open:
                    data = encode(self._queue.backend, id, error)
                    pipe.set(outcome_key(id), data, ex=self._batch.window_s + self._batch.keep_s, nx=True)
                    self.bad[EXPIRED_CODE if isinstance(error, DeadlineExceeded) else error.code()] += 1
            pipe.execute()

    def record(self, first: int, rows: Sequence[BatchRow], bad: Mapping[str, int]) -> None:
        """Store the rows, of which the first has number `first`, and count all that were read so far."""
        with self._queue.redis_errors():
            self._batches.add_rows(self._batch.id, first, [(row.id, row.custom_id) for row in rows])
            self._batches.count(self._batch.id, bad, first + len(rows))
