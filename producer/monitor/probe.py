"""What can be read of Redis, workers and jobs without changing anything, for `vqa doctor`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis import Redis
from redis.exceptions import ResponseError

from producer.client.dead_letters import DeadLetters
from vqa.celery import DEFAULT_QUEUE
from vqa.job import LANES, Lane
from vqa.ledger.commands import entry_key
from vqa.ledger.ledger import DEADLINES, IN_FLIGHT, WORKERS
from vqa.ledger.records import State, WorkerInfo
from vqa.ledger.sweep import LOST_MESSAGE_S, oldest_message_time
from vqa.settings import QueueSettings

T = TypeVar("T")

#: a living janitor acts within so long on whatever is due
SLACK_S = 10.0

#: open jobs, the ones with the nearest deadlines, whose entries are looked for
_ENTRIES = 10_000
_PAGE = 1000

#: of the dead letters the newest are counted by reason
_DEAD = 1000


#: at one moment: of a busy queue, numbers that are read one after the other do not fit together
_UNBALANCED = """
local waiting, less = 0, redis.call('ZCARD', KEYS[1])
for _, tenant in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  waiting = waiting + redis.call('ZCARD', 'vqa:waiting:bulk:' .. tenant)
end
for i = 3, #KEYS do less = less - redis.call('ZCARD', KEYS[i]) end
return {waiting, less - waiting}
"""


@dataclass(frozen=True, slots=True)
class LaneProbe:
    """A lane's open jobs. What is overdue has been so for longer than a living janitor takes."""

    counts: Mapping[State, int]
    #: seconds since the job was queued that has waited longest; None where none waits
    oldest_s: float | None
    leases_out: int
    leases_overdue: int
    delayed_overdue: int
    #: queued for long, with no message on the lane
    lost_messages: int
    #: wake-ups on Celery's list, of which some may not be needed any more
    messages: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One examination."""

    #: Redis's clock, in ms
    now: int
    #: how far it is ahead of this machine's
    ahead_s: float
    answer_s: float
    #: INFO; None where this user may not ask
    server: Mapping[str, Any] | None
    #: when the append-only file is synced; None where this user may not ask
    fsync: str | None
    #: all that are listed, also those that have vanished
    workers: Sequence[WorkerInfo]
    lanes: Mapping[Lane, LaneProbe]
    overdue_jobs: int
    #: ids in the sorted set of deadlines less those in the sets of the states
    unbalanced: int
    #: ids in the sorted sets whose entry is gone
    missing: int
    dead: int
    reasons: Mapping[str, int]
    #: messages on Celery's own default queue
    foreign: int


def read(redis: Redis, settings: QueueSettings, dead: DeadLetters) -> Probe:
    """Raises one of connection.REDIS_ERRORS."""
    begun = time.time()
    seconds, micros = redis.time()
    ended = time.time()
    now = seconds * 1000 + micros // 1000
    redis_s, middle = now / 1000, (begun + ended) / 2
    lanes, (late, (_, unbalanced), foreign) = _sets(redis, settings, now)
    listed = cast(dict[bytes, bytes], redis.hgetall(WORKERS))
    return Probe(
        now=now,
        ahead_s=redis_s - middle,
        answer_s=ended - begun,
        server=_allowed(redis.info),
        fsync=_allowed(lambda: cast(dict[str, str], redis.config_get("appendfsync")).get("appendfsync")),
        workers=sorted((WorkerInfo.parse(*each) for each in listed.items()), key=lambda worker: worker.name),
        lanes=lanes,
        overdue_jobs=late,
        unbalanced=unbalanced,
        missing=sum(_missing(redis)),
        dead=dead.count(settings.dead_ttl_s),
        reasons=dead.reasons(_DEAD),
        foreign=foreign,
    )


def _allowed(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ResponseError:
        # an access list, or a hosted Redis that hides the command
        return None


def _sets(redis: Redis, settings: QueueSettings, now: int) -> tuple[dict[Lane, LaneProbe], Sequence[Any]]:
    """What the sorted sets say, by lane; then late jobs, (waiting ones, ids in some sets only), foreign messages."""
    lost_before = {lane: _lost_before(redis, lane, now) for lane in LANES}
    slack = now - SLACK_S * 1000
    unbalanced = redis.register_script(_UNBALANCED)
    sets = [f"vqa:{state}:{lane}" for lane in LANES for state in IN_FLIGHT]
    # no transaction: a Redis that is full would refuse it
    with redis.pipeline(transaction=False) as pipe:
        for lane in LANES:
            for state in IN_FLIGHT:
                pipe.zcard(f"vqa:{state}:{lane}")
            pipe.zrange(f"vqa:queued:{lane}", 0, 0, withscores=True)
            pipe.zcount(f"vqa:leased:{lane}", "-inf", now)
            # leases are not judged for a lease time after Redis, or a janitor, has started
            pipe.zcount(f"vqa:leased:{lane}", "-inf", slack - settings.lease_s * 1000)
            pipe.zcount(f"vqa:delayed:{lane}", "-inf", slack)
            pipe.zcount(f"vqa:queued:{lane}", "-inf", f"({lost_before[lane]:.0f}")
            pipe.llen(lane)
        pipe.zcount(DEADLINES, "-inf", slack)
        unbalanced(keys=[DEADLINES, "vqa:turns:bulk", *sets], client=pipe)
        pipe.llen(DEFAULT_QUEUE)
        *replies, late, waiting, foreign = pipe.execute()
    each = iter(replies)
    return {lane: _lane(each, now, waiting[0] * (lane == "bulk")) for lane in LANES}, (late, waiting, foreign)


def _lane(replies: Iterator[Any], now: int, waiting: int) -> LaneProbe:
    counts: dict[State, int] = {"waiting": waiting}
    counts |= {state: next(replies) for state in IN_FLIGHT}
    oldest = next(replies)
    oldest_s = max(0.0, (now - oldest[0][1]) / 1000) if oldest else None
    return LaneProbe(counts, oldest_s, *(next(replies) for _ in range(5)))


def _lost_before(redis: Redis, lane: Lane, now: int) -> float:
    latest = now - (LOST_MESSAGE_S + SLACK_S) * 1000
    heard = oldest_message_time(redis, lane)
    return latest if heard is None else min(latest, heard)


def _missing(redis: Redis) -> Iterator[int]:
    for start in range(0, _ENTRIES, _PAGE):
        ids = cast(list[bytes], redis.zrange(DEADLINES, start, start + _PAGE - 1))
        suspects = [id for id, there in _entries(redis, ids) if not there]
        # a job that ended between the two looks is in neither
        found = Counter(there for id, there in _entries(redis, suspects) if redis.zscore(DEADLINES, id) is not None)
        yield found[0]
        if len(ids) < _PAGE:
            return


def _entries(redis: Redis, ids: Sequence[bytes]) -> list[tuple[bytes, int]]:
    with redis.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.exists(entry_key(id.decode()))
        return list(zip(ids, pipe.execute() if ids else [], strict=True))
