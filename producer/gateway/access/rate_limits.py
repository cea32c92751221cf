"""Requests a minute and a day of API keys, counted by `limits` in Redis over our own connection."""

from __future__ import annotations

from typing import cast

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.windows import Window


class RequestLimits:
    """Counts requests in sliding windows, whose times are Redis's. Methods raise QueueUnavailable."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        # the address is not used: the pool has our TLS, Sentinels, passwords, timeouts and retries
        pool = cast(str, exchanges.redis.connection_pool)  # its type names only plain options
        self._storage = RedisStorage(
            "async+redis://", implementation="redispy", connection_pool=pool, key_prefix="vqa:limits"
        )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    async def count(self, caller: Caller) -> Window | None:
        """Count a request; return the limit that refuses it, if one does. A refused request uses up no day."""
        items = _items(caller.allowance)
        for item in items:
            if not await self._hit(item, caller.key_id):
                caller.usage.requests = await self._window(item, caller.key_id)
                return caller.usage.requests
        await self.look(caller)
        return None

    async def look(self, caller: Caller) -> None:
        """Note what is used, for the headers of a request that is not counted."""
        for item in _items(caller.allowance)[:1]:
            caller.usage.requests = await self._window(item, caller.key_id)

    async def _hit(self, item: RateLimitItem, key_id: str) -> bool:
        async with self._exchanges.exchange():
            return await self._limiter.hit(item, key_id)

    async def _window(self, item: RateLimitItem, key_id: str) -> Window:
        """Read a limit's two windows: the limiter's own statistics leave out when the limit is whole again."""
        length_s = item.get_expiry()
        async with self._exchanges.exchange():
            found = await self._storage.get_sliding_window(item.key_for(key_id), length_s)
        previous, previous_left_s, current, current_left_s = found
        # the current window is kept for twice its length
        left_s = max(current_left_s - length_s, 0) if current_left_s else previous_left_s
        return Window(item.amount, length_s, previous, current, left_s)


def _items(allowance: Allowance) -> list[RateLimitItem]:
    """Return the limits, first the one that headers tell."""
    minute, day = allowance.requests_per_minute, allowance.requests_per_day
    items: list[RateLimitItem] = [RateLimitItemPerMinute(minute, namespace="requests")] if minute else []
    return items + ([RateLimitItemPerDay(day, namespace="requests")] if day else [])
