"""Puts the rows of a batch on the queue."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from producer.arrivals import arriving_singly
from producer.client.batches import cancel_batch, job_id, new_id
from producer.client.job_queue import JobQueue
from producer.client.submission import CHUNK_WAIT_S, PreparedJob, chunks
from producer.client.url_images import UrlImages
from producer.client.waiters import closed
from vqa.errors import InvalidJob, QueueFull
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.batches import Batches

#: a Job, whose id becomes the custom_id; or a job's fields with "custom_id" (or "id"), "question" and "image"
RowLike = Job | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """Puts a batch on the queue."""

    lane: Lane = "bulk"
    tenant: str | None = None
    #: a label for lists of batches, such as a file name
    input: str = ""
    #: seconds until open rows expire; None leaves each row its own timeout, or its lane's
    within_s: float | None = None

    def send(self, queue: JobQueue, rows: Iterable[RowLike], defaults: Mapping[str, Any]) -> str:
        """Submit all rows and return the batch's id. Raises QueueFull, InvalidJob or BadImage; then nothing is left."""
        batches, id = Batches(queue.redis), new_id()
        with queue.redis_errors():
            keep_s = queue.settings.batch_ttl_s
            batches.create(id, self.lane, self.tenant, self.input, self.within_s, keep_s, detached=True)
        total = upload(queue, id, self._jobs(id, rows, defaults))
        with queue.redis_errors():
            batches.seal(id, total)
        return id

    def _jobs(self, id: str, rows: Iterable[RowLike], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Job] | None]:
        end = None if self.within_s is None else time.monotonic() + self.within_s
        seen: set[int] = set()
        shared = {**defaults, "lane": self.lane, "tenant": self.tenant, "batch": id}
        number = 0
        # a generator may wait for its rows
        for row in rows if isinstance(rows, Collection) else arriving_singly(rows, CHUNK_WAIT_S):
            if row is None:
                yield None
                continue
            number += 1
            custom_id, job = _job(number, row, shared)
            # hashes alone: a batch may have millions of rows
            if hash(custom_id) in seen:
                raise InvalidJob(f"row {number}: an earlier row has the same id")
            seen.add(hash(custom_id))
            own: dict[str, Any] = {"id": job_id(id, custom_id)}
            if end is not None:
                left_s = max(0.001, end - time.monotonic())
                own["timeout_s"] = min(job.timeout_s or left_s, left_s)
            yield custom_id, job.model_copy(update=own)


def upload(queue: JobQueue, batch: str, jobs: Iterable[tuple[str, Job | PreparedJob] | None]) -> int:
    """Submit (custom_id, job) pairs of a batch that exists already; return their number. None: no job has come yet.

    Raises QueueFull, or any error that `jobs` raises; then the batch has failed and no row is left on the queue.
    """
    batches, names, total = Batches(queue.redis), dict[str, str](), 0

    def named() -> Iterator[Job | PreparedJob | None]:
        for each in jobs:
            if each is not None:
                names[each[1].id] = each[0]
            yield None if each is None else each[1]

    try:
        for chunk in UrlImages(queue.reader).ready(chunks(named())):
            # also while no row comes: whoever closed the client waits for this call
            if queue.closing.is_set():
                raise closed()
            if not chunk:
                continue
            offered = queue.submit_chunk(chunk)
            if offered.error:
                raise QueueFull(f"after {total:,} rows: {offered.error}; no row of the batch was left on the queue")
            with queue.redis_errors():
                batches.add_rows(batch, total, [(job.id, names.pop(job.id)) for job in chunk])
            total += len(chunk)
    except BaseException:
        _fail(queue, batch)
        raise
    return total


def _fail(queue: JobQueue, batch: str) -> None:
    own = JobQueue(queue.settings) if queue.closing.is_set() else queue
    try:
        cancel_batch(own, batch)
        with own.redis_errors():
            Batches(own.redis).set_status(batch, "failed")
    finally:
        if own is not queue:
            own.close()


def _job(number: int, row: RowLike, shared: Mapping[str, Any]) -> tuple[str, Job]:
    own = {name: getattr(row, name) for name in (*row.model_fields_set, "id")} if isinstance(row, Job) else row
    fields = {**shared, **own, "batch": shared["batch"]}
    id = fields.pop("id", None)
    name = fields.pop("custom_id", None) or id
    if not isinstance(name, str) or not name:
        raise InvalidJob(f"row {number}: id: missing, or not a string")
    if "messages" in fields:
        return name, Job(**fields)
    try:
        image, question = fields.pop("image"), fields.pop("question")
    except KeyError as missing:
        raise InvalidJob(
            f"row {number}: {missing.args[0]}: missing; a row needs image and question, or messages"
        ) from None
    return name, Job.about(image, question, **fields)
