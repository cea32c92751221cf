"""A batch that is submitted whole: every row is on the queue at once, and whoever knows its id reads the answers."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from producer.client.job_queue import Link
from producer.client.submission import chunks
from vqa.answer import Answer
from vqa.errors import InvalidJob, QueueFull, UnknownBatch
from vqa.job import Job, Lane
from vqa.ledger.batches import Batches, BatchState
from vqa.results import Outcome

#: rows whose answers are waited for together
_TOGETHER = 2000

#: between two looks at the time
_CANCELLED_TOGETHER = 200

#: how often a wait for the whole batch looks
_LOOK_S = 1.0

#: a Job, whose id is its custom_id; or its fields with "id" or "custom_id", "question" and "image"
RowLike = Job | Mapping[str, Any]

Answers = Callable[[Iterable[str], float | None], Iterator[tuple[str, Outcome]]]


@dataclass(frozen=True, slots=True)
class Result:
    """How one row of a batch ended."""

    custom_id: str
    #: the job's
    id: str
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        """One flat dictionary, as data frames take them: `pandas.DataFrame(batch.records())`."""
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
            "total_s": answer.timings.total_s,
            "worker": answer.worker,
            "reused": answer.reused,
        }


class Batch:
    """A batch on the queue, by its id; made by `Client.submit_batch` and `Client.batch`. Raises QueueUnavailable."""

    def __init__(self, id: str, link: Link, answers: Answers) -> None:
        self.id = id
        self._link = link
        self._answers = answers
        self._batches = Batches(link.redis)

    def state(self) -> BatchState:
        """Where it stands. Raises UnknownBatch."""
        with self._link.reaching():
            state = self._batches.get(self.id)
        if state is None:
            raise UnknownBatch(f"there is no batch {self.id}; it is kept for VQA_BATCH_TTL_S after its end")
        return state

    def results(self, timeout_s: float | None = None) -> Iterator[Result]:
        """How its rows ended, each once, about in the order in which they were submitted, as they end.

        Rows that are open when `timeout_s` is over come with AnswerTimeout. Of a batch that `vqa submit` waited for,
        the rows are in its file.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        first = 0
        while True:
            rows, whole = self.page(first)
            if not rows and (whole or (end is not None and time.monotonic() > end)):
                return
            if not rows:
                self._link.closing.wait(_LOOK_S)
                continue
            first += len(rows)
            names = dict(rows)
            left = None if end is None else max(0.0, end - time.monotonic())
            for id, outcome in self._answers(names, left):
                yield Result(names[id], id, outcome)

    def rows(self, first: int) -> list[tuple[str, str]]:
        """Some of its rows from that one on, as job id and custom_id; none after the last."""
        with self._link.reaching():
            return self._batches.rows(self.id, first, _TOGETHER)

    def page(self, first: int) -> tuple[list[tuple[str, str]], bool]:
        """`rows`, and whether those that the batch has now are all that it will have. Raises UnknownBatch."""
        # asked before the rows: none is added after it
        whole = self.state().whole
        return self.rows(first), whole

    def records(self, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
        """The results as flat dictionaries."""
        return (result.record() for result in self.results(timeout_s))

    def wait(self, timeout_s: float | None = None) -> BatchState:
        """Its state once it is over, or when `timeout_s` is."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not (state := self.state()).is_over and (end is None or time.monotonic() < end):
            self._link.closing.wait(_LOOK_S)
        return state

    def cancel(self) -> int:
        """End every row that is open; how many there were. Further rows are refused."""
        return 0 if self.state().is_over else cancel_batch(self._link, self.id)


def newest(link: Link, limit: int) -> list[BatchState]:
    """The newest batches."""
    with link.reaching():
        return Batches(link.redis).newest(limit)


def new_id() -> str:
    """Of a batch."""
    return f"batch_{os.urandom(12).hex()}"


def is_batch(id: str) -> bool:
    """Whether this is a batch's id, and not a job's."""
    return re.fullmatch(r"batch_[0-9a-f]{24}", id) is not None


def job_id(batch: str, row: str) -> str:
    """The job's id of a row; `row` names what it asks."""
    return f"{batch}:{hashlib.sha256(f'{batch} {row}'.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Submission:
    """How a batch is put on the queue."""

    lane: Lane = "bulk"
    tenant: str | None = None
    #: what it is called in lists, such as the name of a file
    input: str = ""
    #: seconds until what is still open ends; where None, a row that names no timeout has its lane's
    within_s: float | None = None

    def send(self, link: Link, rows: Iterable[RowLike], defaults: Mapping[str, Any]) -> str:
        """Put all rows on the queue; the batch's id. Raises QueueFull, InvalidJob or BadImage: then nothing is left."""
        batches, id = Batches(link.redis), new_id()
        with link.reaching():
            keep_s = link.settings.batch_ttl_s
            batches.create(id, self.lane, self.tenant, self.input, self.within_s, keep_s, detached=True)
        total = upload(link, id, self._jobs(id, rows, defaults))
        with link.reaching():
            batches.seal(id, total)
        return id

    def _jobs(self, id: str, rows: Iterable[RowLike], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Job]]:
        end = None if self.within_s is None else time.monotonic() + self.within_s
        seen: set[int] = set()
        more = {**defaults, "lane": self.lane, "tenant": self.tenant}
        for number, row in enumerate(rows, start=1):
            custom_id, job = _job(number, row, {**more, "batch": id})
            # a hash is all that is kept of each
            if hash(custom_id) in seen:
                raise InvalidJob(f"row {number}: an earlier row has the same id")
            seen.add(hash(custom_id))
            own: dict[str, Any] = {"id": job_id(id, custom_id)}
            if end is not None:
                left_s = max(0.001, end - time.monotonic())
                own["timeout_s"] = min(job.timeout_s or left_s, left_s)
            yield custom_id, job.model_copy(update=own)


def upload(link: Link, batch: str, jobs: Iterable[tuple[str, Job]]) -> int:
    """Put the jobs of a batch that was begun on the queue, each with its custom_id; how many there are.

    Raises QueueFull, and whatever making a job raises; then the batch has failed, and nothing of it is left.
    """
    batches, names, total = Batches(link.redis), dict[str, str](), 0

    def named() -> Iterator[Job]:
        for custom_id, job in jobs:
            names[job.id] = custom_id
            yield job

    try:
        for chunk in chunks(named()):
            offered = link.reach(chunk)
            if offered.why:
                raise QueueFull(f"after {total:,} rows: {offered.why}; nothing of the batch was left on the queue")
            with link.reaching():
                batches.add_rows(batch, total, [(job.id, names.pop(job.id)) for job in chunk])
            total += len(chunk)
    except BaseException:
        cancel_batch(link, batch)
        with link.reaching():
            batches.set_status(batch, "failed")
        raise
    return total


def cancel_batch(link: Link, batch: str, within_s: float | None = None) -> int:
    """Let no more rows in, and end those that are open, as far as that goes in `within_s`; how many were open."""
    batches, ended = Batches(link.redis), 0
    end = None if within_s is None else time.monotonic() + within_s
    with link.reaching():
        batches.cancel(batch)
        ids = batches.open_ids(batch)
        while (some := list(islice(ids, _CANCELLED_TOGETHER))) and (end is None or time.monotonic() < end):
            ended += len(link.cancel_many(some))
    return ended


def _job(number: int, row: RowLike, more: Mapping[str, Any]) -> tuple[str, Job]:
    own = {name: getattr(row, name) for name in (*row.model_fields_set, "id")} if isinstance(row, Job) else row
    fields = {**more, **own, "batch": more["batch"]}
    id = fields.pop("id", None)
    name = fields.pop("custom_id", None) or id
    if not isinstance(name, str) or not name:
        raise InvalidJob(f"row {number}: id: a row needs one, a string")
    if "messages" in fields:
        return name, Job(**fields)
    try:
        image, question = fields.pop("image"), fields.pop("question")
    except KeyError as missing:
        raise InvalidJob(f"row {number}: {missing.args[0]}: a row needs one, or messages") from None
    return name, Job.about(image, question, **fields)
