"""Which process works on which batch: a sorted set of the batches that are not over, by when they are due.

A process takes a batch by moving its time into the future, and renews while it works; a batch whose process has died is
due again. That time is also the proof of the lease: a process that finds another time has lost it.
"""

from __future__ import annotations

import time
from typing import Any, cast

import redis.asyncio

#: the batches, by time in ms on Redis's clock
_DUE = "vqa:gateway:open_batches"

#: ms after which another process takes a batch that is not renewed
LEASE_MS = 6000
#: a lease is renewed after this part of it
_RENEW_AFTER = 1 / 3

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

#: lease in ms; returns id and end of a batch that is due
_CLAIM = (
    _NOW
    + f"""
local id = redis.call('ZRANGEBYSCORE', '{_DUE}', '-inf', now, 'LIMIT', 0, 1)[1]
if not id then return false end
redis.call('ZADD', '{_DUE}', now + ARGV[1], id)
return {{id, tostring(now + ARGV[1])}}
"""
)

#: id, end of the lease, ms from now until it is due again (negative: never); returns the time, or false if it is lost
_MOVE = (
    _NOW
    + f"""
local ends = redis.call('ZSCORE', '{_DUE}', ARGV[1])
if not ends or tonumber(ends) ~= tonumber(ARGV[2]) then return false end
if tonumber(ARGV[3]) < 0 then return redis.call('ZREM', '{_DUE}', ARGV[1]) end
redis.call('ZADD', '{_DUE}', now + ARGV[3], ARGV[1])
return tostring(now + ARGV[3])
"""
)


class LeaseLost(Exception):
    """Another process has the batch."""


class Leases:
    """Gives leases. Methods raise redis.exceptions.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis, lease_ms: int = LEASE_MS) -> None:
        self.lease_ms = lease_ms
        # for EVAL: the connection retries an EVALSHA that finds no script, until it gives up
        self._redis = connection

    def queue_add(self, pipe: Any, id: str) -> None:
        """Queue the command that makes a batch due, unless it is listed."""
        pipe.zadd(_DUE, {id: 0}, nx=True)

    async def claim(self) -> Lease | None:
        """Take a batch that is due, if there is one."""
        found = cast(list[bytes] | None, await self._redis.eval(_CLAIM, 0, str(self.lease_ms)))
        return Lease(self, found[0].decode(), found[1].decode()) if found else None

    async def move(self, id: str, ends: str, delay_ms: int) -> str:
        """Make a batch due after `delay_ms` (negative: never), and return when that is. Raises LeaseLost."""
        found = cast(bytes | int | None, await self._redis.eval(_MOVE, 0, id, ends, str(delay_ms)))
        if found is None:
            raise LeaseLost(id)
        return found.decode() if isinstance(found, bytes) else ""


class Lease:
    """One batch of this process. Methods raise LeaseLost and redis.exceptions.RedisError."""

    def __init__(self, leases: Leases, id: str, ends: str) -> None:
        self.id = id
        self._leases = leases
        self._ends = ends
        self._renewed = time.monotonic()

    async def keep(self) -> None:
        """Renew if it is time."""
        lease_ms = self._leases.lease_ms
        if time.monotonic() - self._renewed >= lease_ms / 1000 * _RENEW_AFTER:
            self._renewed = time.monotonic()
            self._ends = await self._leases.move(self.id, self._ends, lease_ms)

    async def release(self, delay_s: float) -> None:
        """Let any process take the batch after `delay_s`."""
        await self._leases.move(self.id, self._ends, round(delay_s * 1000))

    async def end(self) -> None:
        """Take the batch off the list: nothing is left to do."""
        await self._leases.move(self.id, self._ends, -1)
