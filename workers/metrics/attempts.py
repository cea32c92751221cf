"""Counts how attempts end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from prometheus_client.registry import Collector

from vqa.errors import Cancelled, JobGivenUp, UnsupportedVersion, VQAError
from vqa.jobs.lane import LANES, Lane
from vqa.ledger.records import Refusal
from vqa.metrics.declared import ATTEMPTS
from vqa.metrics.families import Family, family
from vqa.redis.connection import REDIS_ERRORS
from workers.jobs.attempt import Attempts, ShuttingDown
from workers.jobs.endings import Delayed
from workers.jobs.foreign import ForeignJob

OutcomeName = Literal["answered", "failed", "retried", "dead_letter", "cancelled", "returned"]

#: an answer, and the message of a job that needs no attempt, have no code
_NO_CODE = ""


class AttemptCounter(Collector):
    """Counts by lane, outcome and the error's code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[Lane, OutcomeName, str]] = Counter(
            {(lane, "answered", _NO_CODE): 0 for lane in LANES}
        )

    def collect(self) -> Iterator[Family]:
        found = family(ATTEMPTS)
        with self._lock:
            for labels, count in self._counts.items():
                found.add_metric(labels, count)
        yield found

    def count(self, lane: Lane, outcome: OutcomeName, code: str = _NO_CODE) -> None:
        with self._lock:
            self._counts[lane, outcome, code] += 1

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Count an attempt that `Attempts.answer` ended with this error."""
        match error:
            case Delayed():
                self.count(lane, "retried", error.error.code())
            case Cancelled():
                self.count(lane, "cancelled", error.code())
            case JobGivenUp():
                # the last attempt's error, which says whose fault it was
                last = error.__cause__
                self.count(lane, "dead_letter", (last if isinstance(last, VQAError) else error).code())
            case UnsupportedVersion():
                self.count(lane, "dead_letter", error.code())
            case VQAError():
                self.count(lane, "failed", error.code())
            case ShuttingDown():
                self.count(lane, "returned")
            case _ if isinstance(error, REDIS_ERRORS):
                self.count(lane, "returned")


@dataclass(frozen=True)
class MeteredAttempts(Attempts):
    """Attempts that are counted."""

    counter: AttemptCounter = field(kw_only=True)

    @classmethod
    def of(cls, attempts: Attempts, counter: AttemptCounter, **others: Any) -> MeteredAttempts:
        """Return the same attempts, counted, with `others` in place of some fields."""
        same = {each.name: getattr(attempts, each.name) for each in fields(Attempts)}
        return cls(**same | others, counter=counter)

    def answer(self, id: str, foreign: ForeignJob | None, lane: Lane) -> Refusal | None:
        try:
            refusal = super().answer(id, foreign, lane)
        except BaseException as error:
            self.counter.failed(lane, error)
            raise
        if refusal is None:
            self.counter.count(lane, "answered")
        return refusal
