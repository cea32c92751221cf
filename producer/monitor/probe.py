"""Reads the state of Redis, workers and jobs for `vqa doctor`, without changing anything."""

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
from vqa.inbox import inbox_length
from vqa.jobs.lane import LANES, Lane
from vqa.ledger.commands import entry_key
from vqa.ledger.lease_check import count_impossible
from vqa.ledger.ledger import DEADLINES, IN_FLIGHT, Ledger
from vqa.ledger.lost_messages import LOST_MESSAGE_S, oldest_message_time
from vqa.ledger.models import model_queues
from vqa.ledger.records import State, WorkerInfo
from vqa.routing import lane_of
from vqa.settings import QueueSettings

T = TypeVar("T")

#: a running janitor handles whatever is due within this time
SLACK_S = 10.0

#: open jobs, nearest deadlines first, whose entries are checked
_ENTRIES = 10_000
_PAGE = 1000

#: newest dead letters that are counted by reason
_DEAD = 1000


#: replies about a queue: counts by state, the oldest queued job, and five numbers
_REPLIES = len(IN_FLIGHT) + 6

#: a script, because counts of a busy queue that are read one after the other do not add up
_UNBALANCED = """
local waiting, less = 0, redis.call('ZCARD', KEYS[1])
for i = 1, #ARGV do
  for _, tenant in ipairs(redis.call('ZRANGE', 'vqa:turns:' .. ARGV[i], 0, -1)) do
    waiting = waiting + redis.call('ZCARD', 'vqa:waiting:' .. ARGV[i] .. ':' .. tenant)
  end
end
for i = 2, #KEYS do less = less - redis.call('ZCARD', KEYS[i]) end
return {waiting, less - waiting}
"""


@dataclass(frozen=True, slots=True)
class LaneProbe:
    """Counts of a lane's open jobs, of all models. `overdue` means for longer than a running janitor takes."""

    counts: Mapping[State, int]
    #: seconds that the oldest queued job has waited; None if there is none
    oldest_s: float | None
    leases_out: int
    leases_overdue: int
    delayed_overdue: int
    #: jobs queued for long without a message on their list
    lost_messages: int
    #: messages on Celery's lists; some may be superfluous
    messages: int
    #: leases that end later than they can: Redis's clock was set back
    leases_impossible: int


@dataclass(frozen=True, slots=True)
class Probe:
    #: Redis's clock, in ms
    now: int
    #: seconds that it is ahead of this machine's
    ahead_s: float
    answer_s: float
    #: reply to INFO; None if this user may not run it
    server: Mapping[str, Any] | None
    #: setting appendfsync; None if this user may not read it
    fsync: str | None
    #: all listed workers, including vanished ones
    workers: Sequence[WorkerInfo]
    lanes: Mapping[Lane, LaneProbe]
    overdue_jobs: int
    #: ids in the sorted set of deadlines minus ids in the sets of states
    unbalanced: int
    #: ids in the sorted sets without an entry
    missing: int
    dead: int
    reasons: Mapping[str, int]
    #: messages on Celery's default queue
    foreign: int
    #: entries of the inbox that are no jobs yet; None if this user may not count them
    inbox: int | None


def run_probe(redis: Redis, settings: QueueSettings, dead: DeadLetters) -> Probe:
    """Read everything. Raises one of connection.REDIS_ERRORS."""
    started = time.perf_counter()
    seconds, micros = redis.time()
    answer_s = time.perf_counter() - started
    now, middle = seconds * 1000 + micros // 1000, time.time() - answer_s / 2
    lanes, (overdue, (_, unbalanced), foreign) = _sets(redis, settings, now)
    return Probe(
        now=now,
        ahead_s=now / 1000 - middle,
        answer_s=answer_s,
        server=_if_allowed(redis.info),
        fsync=_if_allowed(lambda: cast(dict[str, str], redis.config_get("appendfsync")).get("appendfsync")),
        workers=Ledger(redis).workers(float("inf")),
        lanes=lanes,
        overdue_jobs=overdue,
        unbalanced=unbalanced,
        missing=sum(_missing(redis)),
        dead=dead.count(settings.dead_ttl_s),
        reasons=dead.reasons(_DEAD),
        foreign=foreign,
        inbox=_if_allowed(lambda: inbox_length(redis)),
    )


def _if_allowed(command: Callable[[], T]) -> T | None:
    try:
        return command()
    except ResponseError:
        # forbidden by an access list, or hidden by a hosted Redis
        return None


def _sets(redis: Redis, settings: QueueSettings, now: int) -> tuple[dict[Lane, LaneProbe], Sequence[Any]]:
    """Return the lanes' counts; then overdue jobs, (waiting jobs, ids in some sets only), foreign messages."""
    queues = model_queues(redis)
    lost_before = {queue: _lost_before(redis, queue, now) for queue in queues}
    slack = now - SLACK_S * 1000
    sets = [f"vqa:{state}:{queue}" for queue in queues for state in IN_FLIGHT]
    bulk = [queue for queue in queues if lane_of(queue) == "bulk"]
    # no transaction: Redis refuses one when its memory is full
    with redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            for state in IN_FLIGHT:
                pipe.zcard(f"vqa:{state}:{queue}")
            pipe.zrange(f"vqa:queued:{queue}", 0, 0, withscores=True)
            pipe.zcount(f"vqa:leased:{queue}", "-inf", now)
            # janitors ignore expired leases for one lease time after they, or Redis, have started
            pipe.zcount(f"vqa:leased:{queue}", "-inf", slack - settings.lease_s * 1000)
            pipe.zcount(f"vqa:delayed:{queue}", "-inf", slack)
            pipe.zcount(f"vqa:queued:{queue}", "-inf", f"({lost_before[queue]:.0f}")
            pipe.llen(queue)
        pipe.zcount(DEADLINES, "-inf", slack)
        # whole: by its digest it could be flushed meanwhile
        pipe.eval(_UNBALANCED, 1 + len(sets), DEADLINES, *sets, *bulk)
        pipe.llen(DEFAULT_QUEUE)
        *replies, overdue, waiting, foreign = pipe.execute()
    rest = iter(replies)
    found = {queue: [next(rest) for _ in range(_REPLIES)] for queue in queues}
    for queue, figures in found.items():
        figures.append(count_impossible(redis, queue, now, settings.lease_s))
    counted = {
        lane: _lane([found[queue] for queue in queues if lane_of(queue) == lane], now, waiting[0] * (lane == "bulk"))
        for lane in LANES
    }
    return counted, (overdue, waiting, foreign)


def _lane(queues: Sequence[Sequence[Any]], now: int, waiting: int) -> LaneProbe:
    """Add up the replies about a lane's queues."""
    numbers = len(IN_FLIGHT)
    counts: dict[State, int] = {"waiting": waiting}
    counts |= {state: sum(queue[place] for queue in queues) for place, state in enumerate(IN_FLIGHT)}
    oldest = min((first[1] for queue in queues for first in queue[numbers]), default=None)
    oldest_s = None if oldest is None else max(0.0, (now - oldest) / 1000)
    figures = [sum(column) for column in zip(*(queue[numbers + 1 :] for queue in queues), strict=True)]
    return LaneProbe(counts, oldest_s, *figures)


def _lost_before(redis: Redis, queue: str, now: int) -> float:
    latest = now - (LOST_MESSAGE_S + SLACK_S) * 1000
    oldest = oldest_message_time(redis, queue)
    return latest if oldest is None else min(latest, oldest)


def _missing(redis: Redis) -> Iterator[int]:
    for start in range(0, _ENTRIES, _PAGE):
        ids = cast(list[bytes], redis.zrange(DEADLINES, start, start + _PAGE - 1))
        suspects = [id for id, exists in _entries(redis, ids) if not exists]
        # a job that ended between the two reads is in neither set
        found = Counter(exists for id, exists in _entries(redis, suspects) if redis.zscore(DEADLINES, id) is not None)
        yield found[0]
        if len(ids) < _PAGE:
            return


def _entries(redis: Redis, ids: Sequence[bytes]) -> list[tuple[bytes, int]]:
    with redis.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.exists(entry_key("").encode() + id)
        return list(zip(ids, pipe.execute() if ids else [], strict=True))
