"""Batches: all rows are put on the queue at once, and any client that knows the id reads the answers."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from producer.client.job_queue import JobQueue
from producer.client.submission import PreparedJob, chunks
from producer.client.url_images import UrlImages
from vqa.answer import Answer
from vqa.errors import InvalidJob, QueueFull, UnknownBatch
from vqa.job import Job, Lane
from vqa.ledger.batches import Batches, BatchState
from vqa.ledger.records import Unreadable
from vqa.results import Outcome

#: rows per page
_PAGE = 2000

#: jobs cancelled between two checks of the time
_CANCEL_PAGE = 200

#: seconds between two polls of a batch
POLL_S = 1.0

#: a Job, whose id becomes the custom_id; or a job's fields with "custom_id" (or "id"), "question" and "image"
RowLike = Job | Mapping[str, Any]

Answers = Callable[[Iterable[str], float | None], Iterator[tuple[str, Outcome]]]


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one row of a batch."""

    custom_id: str
    #: the job's id
    id: str
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        """Return a flat dictionary, for data frames: `pandas.DataFrame(batch.records())`."""
        flat: dict[str, Any] = {"custom_id": self.custom_id, "id": self.id}
        flat |= dict.fromkeys(("text", "parsed", "error", "message"))
        if not isinstance(self.outcome, Answer):
            return flat | {"error": self.outcome.code(), "message": str(self.outcome)}
        answer = self.outcome
        return flat | {
            "text": answer.text,
            "parsed": answer.parsed,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "total_s": answer.timings.total_s,
            "worker": answer.worker,
            "reused": answer.reused,
        }


class Batch:
    """A batch on the queue; made by `client.batches.create` and `retrieve`. Methods raise QueueUnavailable."""

    def __init__(self, id: str, queue: JobQueue, answers: Answers) -> None:
        self.id = id
        self._queue = queue
        self._answers = answers

    @property
    def _batches(self) -> Batches:
        return Batches(self._queue.redis)

    def state(self) -> BatchState:
        """Return the batch's status and counts. Raises UnknownBatch."""
        with self._queue.redis_errors():
            try:
                state = self._batches.get(self.id)
            except Unreadable as error:
                raise UnknownBatch(f"batch {self.id} is damaged: {error}; another program has written to it") from None
        if state is None:
            raise UnknownBatch(f"there is no batch {self.id}; batches are deleted VQA_BATCH_TTL_S after their end")
        return state

    def results(self, timeout_s: float | None = None) -> Iterator[Result]:
        """Yield the outcome of each row once, as rows end, about in the order of submission.

        Rows that are open after `timeout_s` come with AnswerTimeout. For a batch that `vqa submit` waited for, use
        its output file instead.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        first = 0
        while True:
            rows, complete = self.page(first)
            if not rows and (complete or (end is not None and time.monotonic() > end)):
                return
            if not rows:
                self._queue.closing.wait(POLL_S)
                continue
            first += len(rows)
            names = dict(rows)
            left = None if end is None else max(0.0, end - time.monotonic())
            for id, outcome in self._answers(names, left):
                yield Result(names[id], id, outcome)

    def rows(self, first: int) -> list[tuple[str, str]]:
        """Return a page of rows, starting at number `first`, as (job id, custom_id); empty after the last."""
        with self._queue.redis_errors():
            return self._batches.rows(self.id, first, _PAGE)

    def page(self, first: int) -> tuple[list[tuple[str, str]], bool]:
        """Return a page of rows, and whether the batch will get no further rows. Raises UnknownBatch."""
        # the state before the rows: none is added after it
        complete = self.state().has_all_rows
        return self.rows(first), complete

    def records(self, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield the results as flat dictionaries."""
        return (result.record() for result in self.results(timeout_s))

    def wait(self, timeout_s: float | None = None) -> BatchState:
        """Wait until the batch is over, for at most `timeout_s`; return its state."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not (state := self.state()).is_over and (end is None or time.monotonic() < end):
            self._queue.closing.wait(POLL_S)
        return state

    def cancel(self) -> int:
        """Cancel the open rows, refuse further ones, and return how many were open."""
        return 0 if self.state().is_over else cancel_batch(self._queue, self.id)


def new_id() -> str:
    return f"batch_{os.urandom(12).hex()}"


def is_batch(id: str) -> bool:
    """Tell a batch's id from a job's; the id of a batch over HTTP also names its owner."""
    return re.fullmatch(r"batch_([0-9a-f]{12}_)?[0-9a-f]{24}", id) is not None


def job_id(batch: str, row: str) -> str:
    """Return the job id of a row; `row` is a digest of what it asks."""
    return f"{batch}:{hashlib.sha256(f'{batch} {row}'.encode()).hexdigest()[:32]}"


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

    def _jobs(self, id: str, rows: Iterable[RowLike], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Job]]:
        end = None if self.within_s is None else time.monotonic() + self.within_s
        seen: set[int] = set()
        shared = {**defaults, "lane": self.lane, "tenant": self.tenant, "batch": id}
        for number, row in enumerate(rows, start=1):
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


def upload(queue: JobQueue, batch: str, jobs: Iterable[tuple[str, Job | PreparedJob]]) -> int:
    """Submit (custom_id, job) pairs of a batch that exists already; return their number.

    Raises QueueFull, or any error that `jobs` raises; then the batch has failed and no row is left on the queue.
    """
    batches, names, total = Batches(queue.redis), dict[str, str](), 0

    def named() -> Iterator[Job | PreparedJob]:
        for custom_id, job in jobs:
            names[job.id] = custom_id
            yield job

    try:
        for chunk in UrlImages(queue.reader).ready(chunks(named())):
            offered = queue.submit_chunk(chunk)
            if offered.error:
                raise QueueFull(f"after {total:,} rows: {offered.error}; no row of the batch was left on the queue")
            with queue.redis_errors():
                batches.add_rows(batch, total, [(job.id, names.pop(job.id)) for job in chunk])
            total += len(chunk)
    except BaseException:
        cancel_batch(queue, batch)
        with queue.redis_errors():
            batches.set_status(batch, "failed")
        raise
    return total


def cancel_batch(queue: JobQueue, batch: str, within_s: float | None = None) -> int:
    """Refuse further rows, cancel the open ones for at most `within_s`, and return how many were cancelled."""
    batches, ended = Batches(queue.redis), 0
    end = None if within_s is None else time.monotonic() + within_s
    with queue.redis_errors():
        batches.cancel(batch)
        ids = batches.open_ids(batch)
        while (page := list(islice(ids, _CANCEL_PAGE))) and (end is None or time.monotonic() < end):
            ended += len(queue.cancel_many(page))
    return ended


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
