"""Requests a minute and a day of API keys, counted by `limits` in Redis over our own connection."""

from __future__ import annotations

from typing import cast

import redis.asyncio
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from redis.exceptions import NoScriptError

from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.windows import Window

#: a limit's script replies: previous count, its ms, current count, its ms; None without such a key
_Counts = tuple[bytes | None, int, bytes | None, int]


class _Storage(RedisStorage):
    """Counts and reads in one round trip, where the library's strategy takes two: sliding window counters."""

    def __init__(self, connection: redis.asyncio.Redis) -> None:
        # the address is not used: the pool has our TLS, Sentinels, passwords, timeouts and retries
        pool = cast(str, connection.connection_pool)  # its type names only plain options
        super().__init__("async+redis://", implementation="redispy", connection_pool=pool, key_prefix="vqa:limits")
        self._redis = connection
        self._count_script = connection.register_script(self.bridge.SCRIPT_ACQUIRE_SLIDING_WINDOW)
        self._look_script = connection.register_script(self.bridge.SCRIPT_SLIDING_WINDOW)

    async def count(self, item: RateLimitItem, key_id: str) -> tuple[bool, Window]:
        """Count a request unless the limit is reached; return whether it was counted, and the window then."""
        counted, counts = await self._run(item, key_id, True)
        return bool(counted), _window(item, cast(_Counts, counts))

    async def look(self, item: RateLimitItem, key_id: str) -> Window:
        [counts] = await self._run(item, key_id, False)
        return _window(item, cast(_Counts, counts))

    async def _run(self, item: RateLimitItem, key_id: str, counts: bool) -> list[object]:
        try:
            return await self._send(item, key_id, counts)
        except NoScriptError:
            for script in (self._count_script, self._look_script):
                await self._redis.script_load(script.script)
            return await self._send(item, key_id, counts)

    async def _send(self, item: RateLimitItem, key_id: str, counts: bool) -> list[object]:
        key, length_s = item.key_for(key_id), item.get_expiry()
        names = [self.bridge.prefixed_key(each(key)) for each in (self._previous_window_key, self._current_window_key)]
        async with self._redis.pipeline(transaction=False) as pipe:
            if counts:
                pipe.evalsha(self._count_script.sha, 2, *names, item.amount, length_s, 1)
            pipe.evalsha(self._look_script.sha, 2, *names, length_s)
            return cast(list[object], await pipe.execute())


class RequestLimits:
    """Counts requests in sliding windows, whose times are Redis's. Methods raise QueueUnavailable."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._storage = _Storage(exchanges.redis)

    async def count(self, caller: Caller) -> Window | None:
        """Count a request; return the limit that refuses it, if one does.

        A request that the limit a minute refuses does not count towards the day.
        """
        shown = None
        for item in _items(caller.allowance):
            async with self._exchanges.exchange():
                counted, window = await self._storage.count(item, caller.key_id)
            # headers show the first limit, or the one that refuses
            caller.usage.requests = shown = shown if shown and counted else window
            if not counted:
                return window
        return None

    async def look(self, caller: Caller) -> None:
        """Note what is used, for the headers of a request that is not counted."""
        for item in _items(caller.allowance)[:1]:
            async with self._exchanges.exchange():
                caller.usage.requests = await self._storage.look(item, caller.key_id)


def _window(item: RateLimitItem, counts: _Counts) -> Window:
    """Return the window; the library's own statistics do not say when nothing of it counts any more."""
    previous, previous_ms, current, current_ms = counts
    length_s = item.get_expiry()
    # the current window is kept for twice its length
    left_s = max(current_ms / 1000 - length_s, 0) if current else max(previous_ms / 1000, 0)
    return Window(item.amount, length_s, int(previous or 0), int(current or 0), left_s)


def _items(allowance: Allowance) -> list[RateLimitItem]:
    """Return the limits; headers show the first."""
    minute, day = allowance.requests_per_minute, allowance.requests_per_day
    items: list[RateLimitItem] = [RateLimitItemPerMinute(minute, namespace="requests")] if minute else []
    return items + ([RateLimitItemPerDay(day, namespace="requests")] if day else [])
