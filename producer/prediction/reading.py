"""Reads what predictions need from Redis, without changing anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from redis import Redis

from producer.prediction.prediction import Place, QueueFigures
from producer.prediction.rate import SLICE_S, SLICES, Closed
from producer.prediction.share import Backlog
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import batch_key
from vqa.ledger.commands import entry_key
from vqa.ledger.ledger import IN_FLIGHT

#: open jobs of a batch that say on which queue it is
_SAMPLE = 8
#: no figure is larger, unless another program has written it
_MOST = 2**53
#: bytes of an entry that hold its header, if its job has not lost workers many times
_HEADER_BYTES = 4096

#: how many tenants wait; then of each of the next ones: name, turn, number of waiting jobs, time of the first
_TENANTS = """
local turns = 'vqa:turns:' .. ARGV[1]
local found = {redis.call('ZCARD', turns)}
for i, each in ipairs(redis.call('ZRANGE', turns, 0, ARGV[2] - 1, 'WITHSCORES')) do
  table.insert(found, each)
  if i % 2 == 0 then
    local set = 'vqa:waiting:' .. ARGV[1] .. ':' .. found[#found - 1]
    table.insert(found, redis.call('ZCARD', set))
    table.insert(found, redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or '')
  end
end
return found
"""
_TENANT_WORDS = 4
#: tenants that are looked at, so that Redis is not blocked; further ones are taken to be like them
_MOST_TENANTS = 500


def read_queue_names(redis: Redis, states: Sequence[BatchState]) -> dict[str, str]:
    """Return the queue of each batch: where most of a few of its open jobs are, else its lane."""
    with redis.pipeline(transaction=False) as pipe:
        for state in states:
            pipe.sscan(f"{batch_key(state.id)}:open", count=_SAMPLE)
        # a small set comes whole
        samples = [_scanned(reply)[:_SAMPLE] for reply in pipe.execute(raise_on_error=False)]
    with redis.pipeline(transaction=False) as pipe:
        for id in (id for sample in samples for id in sample):
            pipe.getrange(entry_key(id.decode("utf-8", "replace")), 0, _HEADER_BYTES - 1)
        heads = iter(pipe.execute(raise_on_error=False))
    names = {}
    for state, sample in zip(states, samples, strict=True):
        found = Counter(filter(None, [_queue(next(heads)) for _ in sample])).most_common(1)
        names[state.id] = found[0][0] if found else state.lane
    return names


def _queue(head: object) -> str | None:
    """Return the queue that an entry's header names, as `queue_of` in the ledger's script; None if it has none."""
    if not isinstance(head, bytes):
        return None
    with suppress(ValueError, RecursionError):
        header = json.loads(head.partition(b"\n")[0])
        if isinstance(header, dict) and "lane" in header:
            return f"{header['lane']}.{header['model']}" if header.get("model") else str(header["lane"])
    return None


def read_queues(redis: Redis, names: Sequence[str], now_s: float) -> dict[str, QueueFigures]:
    """Return the figures of queues by name; those of a bulk queue name what its workers answer first, too."""
    wanted = list(dict.fromkeys([*names, *filter(None, map(_first, names))]))
    newest = int(now_s // SLICE_S)
    with redis.pipeline(transaction=False) as pipe:
        for name in wanted:
            pipe.mget([f"vqa:closed:{name}:{newest - age}" for age in range(SLICES, -1, -1)])
            for state in IN_FLIGHT:
                pipe.zcard(f"vqa:{state}:{name}")
            pipe.eval(_TENANTS, 0, name, _MOST_TENANTS)
            pipe.hgetall(f"vqa:flight:{name}")
        # a key that another program has damaged must not hide the rest
        replies = iter(pipe.execute(raise_on_error=False))
    found = {name: _figures(replies, now_s) for name in wanted}
    return {name: replace(found[name], interactive=found.get(_first(name))) for name in names}


def _first(queue: str) -> str:
    """Return the queue whose jobs go before a bulk queue's; '' for others."""
    return f"interactive{queue.removeprefix('bulk')}" if queue.startswith("bulk") else ""


def _figures(replies: Iterator[Any], now_s: float) -> QueueFigures:
    counts = tuple(_number(each) for each in _list(next(replies))) or (0,)
    queued, leased, delayed = (_number(next(replies)) for _ in IN_FLIGHT)
    (tenants, *words), flight = _list(next(replies)) or [0], next(replies)
    in_flight = {name: _number(count) for name, count in flight.items()} if isinstance(flight, dict) else {}
    total = max(1, sum(in_flight.values()))
    rows = [words[start : start + _TENANT_WORDS] for start in range(0, len(words), _TENANT_WORDS)]
    oldest = [_number(first) for *_, first in rows if first]
    return QueueFigures(
        closed=Closed(counts, now_s),
        queued=queued,
        leased=leased,
        delayed=delayed,
        tenants={
            # who is at the limit has as many of the queue's jobs as of those in flight
            name.decode("utf-8", "replace"): Backlog(waiting, in_flight.get(name, 0) / total if turn == b"inf" else 0)
            for name, turn, waiting, _ in rows
        },
        tenants_per_known=max(1.0, tenants / max(1, len(rows))),
        oldest=min(oldest, default=None),
    )


def read_places(redis: Redis, states: Sequence[BatchState], queues: Mapping[str, str]) -> dict[str, Place]:
    """Return where the last job of each batch stands on its queue."""
    with redis.pipeline(transaction=False) as pipe:
        for state in states:
            # later ones are of other batches
            last: float | str = state.sealed_at or "+inf"
            queue = queues[state.id]
            pipe.zcount(f"vqa:waiting:{queue}:{state.tenant}", "-inf", last)
            pipe.zcount(f"vqa:queued:{queue}", "-inf", last)
            # looks through the smaller of both, and few bulk jobs are queued at a time
            pipe.zintercard(2, [f"vqa:queued:{queue}", f"{batch_key(state.id)}:open"], limit=1)
        replies = iter(pipe.execute(raise_on_error=False))
    return {state.id: _place(*islice(replies, 3)) for state in states}


def _place(waiting: object, queued: object, own: object) -> Place:
    # a Redis whose rules for users are those of an earlier release refuses ZINTERCARD
    return Place(_number(waiting), _number(queued) if isinstance(own, Exception) or own else 0)


def _scanned(reply: object) -> list[Any]:
    return _list(reply[1]) if isinstance(reply, tuple) and len(reply) == 2 else []


def _list(reply: object) -> list[Any]:
    return reply if isinstance(reply, list) else []


def _number(value: Any) -> int:
    with suppress(TypeError, ValueError, OverflowError):
        return min(max(0, int(float(value))), _MOST)
    return 0
