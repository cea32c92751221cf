"""Whether there is room on the queue for more jobs, and how whoever submits many waits for it."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from vqa.errors import QueueFull
from vqa.job import Job, Lane
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.ledger import DEADLINES, FLYING
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: what Redis said of its room holds for so long
_FRESH_S = 1.0

#: between two offers of jobs for which there was no room, longer each time
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0

#: whoever waits for longer is told so
_TOLD_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of jobs that were offered: all are on the queue but the rest, for which there was no room."""

    rest: tuple[Job, ...] = ()
    #: None where nothing is left
    why: QueueFull | None = None

    def taken_of(self, jobs: Sequence[Job]) -> list[str]:
        """The ids of those jobs, of all that were offered, that are on the queue."""
        left = {job.id for job in self.rest}
        return [job.id for job in jobs if job.id not in left]


class Room:
    """What is left of the limits. The ledger has the last word on numbers; this spares images a way for nothing."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self._redis = redis
        self._settings = settings
        self._looked = -math.inf
        self._left: Counter[Lane] = Counter()
        self._memory: QueueFull | None = None

    def turned_away(self, jobs: Sequence[Job]) -> Mapping[str, QueueFull]:
        """Ids of jobs that are not to be sent now, with the reason; one that is known already is always let in."""
        wanted = Counter(job.lane for job in jobs)
        enough = not self._memory and all(self._left[lane] >= number for lane, number in wanted.items())
        if not enough or time.monotonic() - self._looked >= _FRESH_S:
            self._look()
        if not self._memory and all(self._left[lane] >= number for lane, number in wanted.items()):
            self._left -= wanted
            return {}
        return dict(self._too_many(jobs))

    def _too_many(self, jobs: Sequence[Job]) -> Iterator[tuple[str, QueueFull]]:
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
        """Why a job of that lane is refused; what was seen of the room holds no more."""
        self._looked = -math.inf
        most = self._settings.queue_most
        return QueueFull(
            f"lane {lane} holds {most} open jobs, as many as it may (VQA_QUEUE_MOST); "
            "wait until some are answered, add workers, or raise it"
        )

    def _look(self) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.info("memory")
            pipe.zcard(DEADLINES)
            for state in FLYING:
                pipe.zcard(f"vqa:{state}:interactive")
            memory, *counts = pipe.execute(raise_on_error=False)
        for reply in counts:
            if isinstance(reply, RedisError):
                raise reply
        # bulk jobs that wait for their turn are in no set of the lane's
        taken: dict[Lane, int] = {"interactive": sum(counts[1:])}
        taken["bulk"] = counts[0] - taken["interactive"]
        for lane, number in taken.items():
            self._left[lane] = max(0, self._settings.queue_most - number)
        # a user who may not ask cannot be told: then Redis's own refusal is the limit
        self._memory = None if isinstance(memory, RedisError) else self._over(memory)
        self._looked = time.monotonic()

    def _over(self, memory: Mapping[str, Any]) -> QueueFull | None:
        used, most, share = memory["used_memory"], memory["maxmemory"], self._settings.queue_memory
        if not most or used <= share * most:
            return None
        return QueueFull(
            f"Redis uses {used / most:.0%} of its maxmemory of {most / 2**20:.0f} MiB, and jobs are accepted up to "
            f"{share:.0%} (VQA_QUEUE_MEMORY); wait until jobs are answered, add workers, or raise maxmemory"
        )

    def _known(self, ids: Sequence[str]) -> set[str]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.exists(entry_key(id), outcome_key(id), dead_key(id))
            return {id for id, found in zip(ids, cast(list[int], pipe.execute()), strict=True) if found}


def memory_full() -> QueueFull:
    """Why jobs are refused when Redis itself says that it has no memory left."""
    return QueueFull("Redis has reached its maxmemory; wait until jobs are answered, add workers, or raise maxmemory")


class Holdup:
    """One caller's wait for room."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._waited_s = 0.0
        self._told = False

    def pause_s(self, offered: Offered, before: int) -> float:
        """How long to wait before the rest of an offer of so many jobs is offered again."""
        if len(offered.rest) < before:
            self._pause_s = _FIRST_PAUSE_S
        if self._waited_s >= _TOLD_AFTER_S and not self._told:
            self._told = True
            log.warning("waiting for room: %s", offered.why)
        pause_s, self._pause_s = self._pause_s, min(_LONGEST_PAUSE_S, self._pause_s * 1.5)
        self._waited_s += pause_s
        return pause_s


def rest_of(jobs: Iterable[Job], reasons: Mapping[str, QueueFull]) -> Offered:
    """The jobs that were refused, with one of the reasons."""
    rest = tuple(job for job in jobs if job.id in reasons)
    return Offered(rest, reasons[rest[0].id] if rest else None)
