"""Batches: all rows are put on the queue at once, and any client that knows the id reads the answers."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from producer.client.job_queue import JobQueue
from producer.prediction import Prediction, predict
from vqa.answer import Answer
from vqa.errors import UnknownBatch
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import Batches
from vqa.ledger.records import Unreadable
from vqa.results import Outcome

#: rows per page
_PAGE = 2000

#: jobs cancelled between two checks of the time
_CANCEL_PAGE = 200

#: seconds between two polls of a batch
POLL_S = 1.0

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

    def prediction(self, state: BatchState | None = None) -> Prediction | None:
        """Return when the batch ends, as far as the last minutes tell; None if it is over or being cancelled.

        `state` is the batch's, if it was just read. Raises UnknownBatch.
        """
        state = state or self.state()
        with self._queue.redis_errors():
            return predict(self._queue.redis, [state], self._queue.settings.lease_s).get(self.id)

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
