"""Measures how long the jobs of a killed worker take to be back in the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from vqa.jobs.lane import LANES
from vqa.ledger.commands import entry_key
from vqa.ledger.records import Header

_INTERVAL_S = 0.05


@dataclass(frozen=True)
class HeldJob:
    """A job that a worker holds; the token identifies the attempt."""

    id: str
    token: str | None


@dataclass(frozen=True)
class Recovery:
    """When a worker was killed and when its job was no longer leased to it, in monotonic seconds."""

    id: str
    killed: float
    #: None if it never came back
    back: float | None

    @property
    def took_s(self) -> float:
        """Infinite if it never came back."""
        return float("inf") if self.back is None else self.back - self.killed


def held_by(redis: Redis, worker: str) -> list[HeldJob]:
    """Return the jobs that this worker (its name before the @) holds according to the ledger."""
    leased = (cast(list[bytes], redis.zrange(f"vqa:leased:{lane}", 0, -1)) for lane in LANES)
    ids = [id.decode() for some in leased for id in some]
    return [
        HeldJob(id, header.token)
        for id, header in zip(ids, _headers(redis, ids), strict=True)
        if header and header.state == "leased" and (header.worker or "").partition("@")[0] == worker
    ]


def watch(redis: Redis, held: Sequence[HeldJob], killed: float, timeout_s: float) -> list[Recovery]:
    """Wait until each job is queued again or taken by another worker, for at most `timeout_s`.

    Call it right after the kill: jobs not held at the first check had ended before their worker.
    """
    waiting = _still_held(redis, held)
    recoveries = []
    while waiting and time.monotonic() < killed + timeout_s:
        time.sleep(_INTERVAL_S)
        try:
            still = _still_held(redis, waiting)
        except RedisError:
            continue
        now = time.monotonic()
        recoveries += [Recovery(each.id, killed, now) for each in waiting if each not in still]
        waiting = still
    return recoveries + [Recovery(each.id, killed, None) for each in waiting]


def _still_held(redis: Redis, held: Sequence[HeldJob]) -> list[HeldJob]:
    headers = _headers(redis, [each.id for each in held])
    return [
        each
        for each, header in zip(held, headers, strict=True)
        if header and header.state == "leased" and header.token == each.token
    ]


def _headers(redis: Redis, ids: Sequence[str]) -> list[Header | None]:
    entries = cast(list[bytes | None], redis.mget([entry_key(id) for id in ids]) if ids else [])
    return [Header.parse(entry.partition(b"\n")[0]) if entry else None for entry in entries]
