"""Admission control of a producer: whether the queue has capacity for more jobs, and the backoff while it has none."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from redis import Redis
from redis.exceptions import ResponseError

from producer.client.submission import PreparedJob
from vqa.errors import QueueFull
from vqa.jobs.lane import Lane
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.ledger import DEADLINES, IN_FLIGHT
from vqa.ledger.models import model_queues
from vqa.redis.error_replies import is_temporary
from vqa.routing import lane_of
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: share of Redis's maxmemory above which no job is accepted
MEMORY_SHARE = 0.8

#: seconds for which a measurement of Redis is reused
_FRESH_S = 1.0

#: pause between two offers of jobs that did not fit; it grows
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0

#: a longer wait is logged, once
_LOG_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class Offered:
    """Result of an offer of jobs: those that did not fit, and why. All others are on the queue."""

    rest: tuple[PreparedJob, ...] = ()
    #: None if everything was accepted
    error: QueueFull | None = None

    @classmethod
    def from_refusals(cls, jobs: Sequence[PreparedJob], errors: Mapping[str, QueueFull]) -> Self:
        rest = tuple(job for job in jobs if job.id in errors)
        return cls(rest, errors[rest[0].id] if rest else None)

    def accepted_ids(self, jobs: Sequence[PreparedJob]) -> list[str]:
        """Return the ids of the jobs, out of all that were offered, that are on the queue."""
        refused = {job.id for job in self.rest}
        return [job.id for job in jobs if job.id not in refused]


class Capacity:
    """A cheap pre-check: avoids uploading images for jobs that the ledger would refuse."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self._redis = redis
        self._settings = settings
        self._measured = -math.inf
        self._left: Counter[Lane] = Counter()
        self._memory: QueueFull | None = None

    def refusals(self, jobs: Sequence[PreparedJob]) -> Mapping[str, QueueFull]:
        """Return why jobs must not be sent now, by id. Jobs that Redis already knows are never refused."""
        wanted = Counter(job.lane for job in jobs)
        fits = not self._memory and all(self._left[lane] >= number for lane, number in wanted.items())
        if not fits or time.monotonic() - self._measured >= _FRESH_S:
            self._measure()
        if not self._memory and all(self._left[lane] >= number for lane, number in wanted.items()):
            self._left -= wanted
            return {}
        return dict(self._refuse(jobs))

    def _refuse(self, jobs: Sequence[PreparedJob]) -> Iterator[tuple[str, QueueFull]]:
        known = self._known([job.id for job in jobs])
        for job in jobs:
            if job.id in known:
                continue
            if self._memory:
                yield job.id, self._memory
            elif self._left[job.lane] <= 0:
                yield job.id, self.lane_full(job.lane)
            else:
                self._left[job.lane] -= 1

    def lane_full(self, lane: Lane) -> QueueFull:
        """Return the error for a job of a full lane, and measure again before the next offer."""
        self._measured = -math.inf
        limit = self._settings.queue_most
        return QueueFull(
            f"lane {lane} holds {limit} open jobs, its limit (VQA_QUEUE_MOST); "
            "wait until some are answered, add workers, or raise the limit"
        )

    def _measure(self) -> None:
        self._memory = self._memory_error()
        queues = [queue for queue in model_queues(self._redis) if lane_of(queue) == "interactive"]
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(DEADLINES)
            for queue in queues:
                for state in IN_FLIGHT:
                    pipe.zcard(f"vqa:{state}:{queue}")
            counts = pipe.execute()
        # bulk jobs that wait for their tenant's turn are in none of the lane's sets
        open_jobs: dict[Lane, int] = {"interactive": sum(counts[1:])}
        open_jobs["bulk"] = counts[0] - open_jobs["interactive"]
        for lane, number in open_jobs.items():
            self._left[lane] = max(0, self._settings.queue_most - number)
        self._measured = time.monotonic()

    def _memory_error(self) -> QueueFull | None:
        try:
            return _memory_error(self._redis.info("memory"))
        except ResponseError as error:
            if is_temporary(error):
                raise
            # this Redis user may not run INFO: Redis's own out-of-memory error is the limit
            return None

    def _known(self, ids: Sequence[str]) -> set[str]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.exists(entry_key(id), outcome_key(id), dead_key(id))
            return {id for id, found in zip(ids, cast(list[int], pipe.execute()), strict=True) if found}


def _memory_error(memory: Mapping[str, Any]) -> QueueFull | None:
    used, limit = memory["used_memory"], memory["maxmemory"]
    if not limit or used <= MEMORY_SHARE * limit:
        return None
    return QueueFull(
        f"Redis uses {used / limit:.0%} of its maxmemory of {limit / 2**20:.0f} MiB, and jobs are accepted up to "
        f"{MEMORY_SHARE:.0%}; wait until jobs are answered, add workers, or raise maxmemory"
    )


def memory_full() -> QueueFull:
    """Return the error for jobs that Redis itself refused because of its maxmemory."""
    return QueueFull("Redis has reached its maxmemory; wait until jobs are answered, add workers, or raise maxmemory")


class Backoff:
    """Pauses of one caller that waits for capacity."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._waited_s = 0.0
        self._logged = False

    def pause_s(self, offered: Offered, count: int) -> float:
        """Return how long to wait before the rest of an offer of `count` jobs is offered again."""
        if len(offered.rest) < count:
            self._pause_s = _FIRST_PAUSE_S
        if self._waited_s >= _LOG_AFTER_S and not self._logged:
            self._logged = True
            log.warning("waiting for capacity: %s", offered.error)
        pause_s, self._pause_s = self._pause_s, min(_LONGEST_PAUSE_S, self._pause_s * 1.5)
        self._waited_s += pause_s
        return pause_s
