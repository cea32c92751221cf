"""Reads the queue's figures from Redis in a few round trips, without changing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from producer.metrics.dead_codes import count_dead_codes
from vqa.inbox import INBOX
from vqa.jobs.lane import Lane
from vqa.ledger.ledger import DEAD, IN_FLIGHT, WORKERS, living_workers
from vqa.ledger.models import ModelRegistry, model_queues
from vqa.ledger.records import State
from vqa.routing import lane_of, model_of
from vqa.settings import QueueSettings

#: number of waiting jobs and time of the oldest, in ms; '' if there is none. A set for each tenant, so a script
_WAITING = """
local count, oldest = 0, ''
for _, tenant in ipairs(redis.call('ZRANGE', 'vqa:turns:' .. ARGV[1], 0, -1)) do
  local set = 'vqa:waiting:' .. ARGV[1] .. ':' .. tenant
  count = count + redis.call('ZCARD', set)
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
  if first and (oldest == '' or tonumber(first) < tonumber(oldest)) then oldest = first end
end
return {count, oldest}
"""


#: lane, model's label and state
Place = tuple[Lane, str, State]

#: served models that have figures of their own, by name
_MOST_MODELS = 50

#: labels of jobs that name no model, and of those of other models. No model can have these names
_UNNAMED, _OTHER = "", "(other)"


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What Redis holds.

    None or a missing key stands for what this user may not read, or another program damaged.
    """

    jobs: Mapping[Place, int]
    #: seconds since when the first of the sorted set is due; negative if it is due later
    oldest_s: Mapping[Place, float]
    dead: int | None
    #: of the newest dead letters, by the code of the last error
    dead_codes: Mapping[str, int] | None
    inbox: int | None
    #: slots of each ready worker
    ready: tuple[int, ...] | None
    vanished: int | None
    memory: int | None
    memory_limit: int | None


def read_figures(redis: Redis, settings: QueueSettings) -> QueueFigures:
    """Read everything. Raises redis.exceptions.RedisError if Redis does not answer."""
    seconds, micros = redis.time()
    now_s = seconds + micros / 1e6
    queues, labels = model_queues(redis), _labels(redis, settings)
    # no transaction: Redis refuses one when its memory is full
    with redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.eval(_WAITING, 0, queue)
            for state in IN_FLIGHT:
                pipe.zcard(f"vqa:{state}:{queue}")
                pipe.zrange(f"vqa:{state}:{queue}", 0, 0, withscores=True)
        pipe.zcard(DEAD)
        pipe.xlen(INBOX)
        pipe.hgetall(WORKERS)
        pipe.info("memory")
        # one refused command must not hide the others' figures
        replies = iter(pipe.execute(raise_on_error=False))
    jobs: dict[Place, int] = {}
    oldest_s: dict[Place, float] = {}
    for queue in queues:
        _read_queue(replies, (lane_of(queue), labels.get(model_of(queue), _OTHER)), now_s, jobs, oldest_s)
    dead, inbox, workers, info = replies
    ready, vanished = _read_workers(workers, seconds, settings.lease_s)
    memory = info if isinstance(info, dict) else {}
    return QueueFigures(
        jobs=jobs,
        oldest_s=oldest_s,
        dead=_number(dead),
        dead_codes=count_dead_codes(redis),
        inbox=_number(inbox),
        ready=ready,
        vanished=vanished,
        memory=_number(memory.get("used_memory")),
        memory_limit=_number(memory.get("maxmemory")),
    )


def _labels(redis: Redis, settings: QueueSettings) -> Mapping[str | None, str]:
    """Return the labels of models by their names."""
    try:
        names = ModelRegistry(redis, settings.model_keep_s, settings.lease_s).read().names
    except ResponseError:
        # this user may not read them, or another program has damaged them
        names = []
    return {None: _UNNAMED} | {name: name for name in names[:_MOST_MODELS]}


def _read_queue(
    replies: Iterator[Any],
    queue: tuple[Lane, str],
    now_s: float,
    jobs: dict[Place, int],
    oldest_s: dict[Place, float],
) -> None:
    """Add a queue's figures to those of its lane and label; the oldest is that of all queues with this label."""

    def add(state: State, number: int, first: float | None) -> None:
        place, ago_s = (*queue, state), None if first is None else now_s - first / 1000
        if ago_s is not None and jobs.get(place, 0):
            ago_s = max(ago_s, oldest_s[place])
        oldest_s[place] = oldest_s.get(place, 0.0) if ago_s is None else ago_s
        jobs[place] = jobs.get(place, 0) + number

    waiting = next(replies)
    if not isinstance(waiting, Exception):
        count, first = waiting
        add("waiting", count, float(first) if first else None)
    for state in IN_FLIGHT:
        number, oldest = next(replies), next(replies)
        if isinstance(number, int) and isinstance(oldest, list):
            add(state, number, oldest[0][1] if oldest else None)


def _read_workers(listed: Any, now_s: float, lease_s: float) -> tuple[tuple[int, ...] | None, int | None]:
    if not isinstance(listed, dict):
        return None, None
    # Redis's time comes in whole seconds
    living = living_workers(listed, now_s, lease_s + 1)
    slots = tuple(_number(worker.about.get("slots")) or 1 for worker in living)
    return slots, len(living_workers(listed, now_s, float("inf"))) - len(living)


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None
