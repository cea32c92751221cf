"""Reads what `vqa top` shows: one round trip a time, which looks for no keys and changes nothing.

The names of queues and batches come with each reply and are asked for with the next: one that has just appeared is
shown a refresh later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from producer.monitor.queue_view import QueueView, View
from producer.prediction import Prediction, predict
from producer.prediction.rate import SLICE_S, SLICES, Closed
from vqa.inbox import INBOX
from vqa.jobs.lane import LANES
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import BATCHES, batch_key
from vqa.ledger.ledger import DEAD, STATES, WORKERS, living_workers
from vqa.ledger.models import MODELS, OPEN_MODELS
from vqa.ledger.records import Unreadable, texts
from vqa.routing import is_model_name, queue_name

#: newest batches that are looked at
_BATCHES = 20
#: queues that are looked at: those of 63 models
_QUEUES_MOST = 128
#: seconds between two predictions, which need six round trips and hardly change in between
_PREDICT_S = 5.0
#: minutes whose errors are counted, the one that goes on included; see `count_failed` in vqa/ledger/lua/ledger.lua
ERROR_MINUTES = 5

#: of each queue: the numbers of waiting, queued, leased and delayed jobs, and since when the oldest has waited, in ms
_READ = """
local found = {}
for _, queue in ipairs(ARGV) do
  local waiting, oldest = 0, nil
  local function look(set)
    local first = tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
    if first and (not oldest or first < oldest) then oldest = first end
    return redis.call('ZCARD', set)
  end
  for _, tenant in ipairs(redis.call('ZRANGE', 'vqa:turns:' .. queue, 0, -1)) do
    waiting = waiting + look('vqa:waiting:' .. queue .. ':' .. tenant)
  end
  local queued = look('vqa:queued:' .. queue)
  table.insert(found, {waiting, queued, redis.call('ZCARD', 'vqa:leased:' .. queue),
    redis.call('ZCARD', 'vqa:delayed:' .. queue), tostring(oldest or '')})
end
return found
"""


class QueueReader:
    """Reads one frame after the other. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, lease_s: float) -> None:
        self._redis = redis
        self._lease_s = lease_s
        self._queues = [queue_name(lane, None) for lane in LANES]
        self._batches: list[str] = []
        self._slices = 0
        self._predictions: Mapping[str, Prediction] = {}
        self._predict_at = 0.0

    def first(self) -> View:
        """Return a first frame: two reads, as the first one learns what there is."""
        self.read()
        return self.read()

    def read(self) -> View:
        """Return a frame; what this user may not read, or another program has damaged, is left out."""
        names, batches, started = self._queues, self._batches, time.time()
        newest = self._slices or int(started // SLICE_S)
        keys = range(newest - SLICES, newest + 2)
        # no transaction: Redis refuses one when its memory is full
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(WORKERS)
            pipe.hgetall(MODELS)
            pipe.zrange(OPEN_MODELS, 0, _QUEUES_MOST)
            pipe.zrevrange(BATCHES, 0, _BATCHES - 1)
            pipe.eval(_READ, 0, *names)
            pipe.mget([f"vqa:closed:{name}:{each}" for name in names for each in keys])
            for age in range(ERROR_MINUTES):
                pipe.hgetall(f"vqa:failed:{newest * SLICE_S // 60 - age}")
            pipe.zcard(DEAD)
            pipe.xlen(INBOX)
            pipe.info("memory")
            for id in batches:
                pipe.hgetall(batch_key(id))
                pipe.scard(f"{batch_key(id)}:open")
            replies = iter(pipe.execute(raise_on_error=False))
        (seconds, micros), workers = _raised(next(replies)), next(replies)
        now_s = seconds + micros / 1e6
        self._slices = int(now_s // SLICE_S)
        self._learn(next(replies), next(replies), next(replies))
        queues = list(_queues(names, next(replies), next(replies), keys, now_s))
        errors: Counter[str] = Counter()
        for _ in range(ERROR_MINUTES):
            errors.update(_counts(next(replies)))
        dead, inbox, memory = _number(next(replies)), _number(next(replies)), _memory(next(replies))
        states = list(_states(batches, replies))
        return View(
            now_s=now_s,
            workers=living_workers(workers, now_s, self._lease_s + 1) if isinstance(workers, dict) else (),
            queues=queues,
            batches=states,
            predictions=self._predicted(states),
            errors=errors,
            dead=dead,
            inbox=inbox,
            memory=memory,
        )

    def _learn(self, models: object, open_models: object, batches: object) -> None:
        found = [name for each in (models, open_models) if isinstance(each, list | dict) for name in texts(each)]
        names = sorted({name for name in found if is_model_name(name)})
        self._queues = [queue_name(lane, model) for model in (None, *names) for lane in LANES][:_QUEUES_MOST]
        self._batches = texts(batches) if isinstance(batches, list) else []

    def _predicted(self, states: Sequence[BatchState]) -> Mapping[str, Prediction]:
        running = [state for state in states if not state.is_over and state.status != "cancelling"]
        if time.monotonic() >= self._predict_at or any(state.id not in self._predictions for state in running):
            self._predictions = predict(self._redis, running, self._lease_s)
            self._predict_at = time.monotonic() + _PREDICT_S
        return self._predictions


def _raised(reply: Any) -> Any:
    if isinstance(reply, RedisError):
        raise reply
    return reply


def _queues(names: Sequence[str], figures: object, closed: object, keys: range, now_s: float) -> Iterator[QueueView]:
    rows = figures if isinstance(figures, list) else [[0, 0, 0, 0, b""]] * len(names)
    counts = closed if isinstance(closed, list) else [None] * len(names) * len(keys)
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        own = counts[place * len(keys) : (place + 1) * len(keys)]
        last = int(now_s // SLICE_S) - keys[0] + 1
        oldest = None if not row[4] else max(0.0, now_s - float(row[4]) / 1000)
        jobs = dict(zip(STATES, row[:4], strict=True))
        yield QueueView(name, jobs, oldest, Closed([_number(each) or 0 for each in own[:last]] or [0], now_s))


def _counts(reply: object) -> dict[str, int]:
    if not isinstance(reply, dict):
        return {}
    return {code: _number(reply[code.encode()]) or 0 for code in texts(reply)}


def _states(ids: Sequence[str], replies: Iterator[Any]) -> Iterator[BatchState]:
    """Yield those that can be read, running ones first."""
    found = []
    for id in ids:
        fields, open = next(replies), next(replies)
        with suppress(Unreadable, TypeError, AttributeError):
            if fields:
                found.append(BatchState.parse(id, fields, open))
    yield from sorted(found, key=lambda state: state.is_over)


def _memory(info: object) -> float | None:
    used, limit = (
        (_number(info.get(name)) for name in ("used_memory", "maxmemory")) if isinstance(info, dict) else (0, 0)
    )
    return used / limit if used and limit else None


def _number(value: Any) -> int | None:
    with suppress(TypeError, ValueError):
        return int(value)
    return None
