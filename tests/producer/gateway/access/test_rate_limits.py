"""Requests are counted as the library counts them, in one round trip."""

import asyncio

from limits import RateLimitItemPerMinute
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis import Redis

from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.rate_limits import RequestLimits
from vqa.settings import QueueSettings

CALLER = Caller(key_id="key_a", allowance=Allowance(requests_per_minute=5, requests_per_day=7))


def test_the_library_finds_what_was_counted(queue_settings: QueueSettings) -> None:
    item = RateLimitItemPerMinute(5, namespace="requests")

    async def run() -> None:
        exchanges = Exchanges(queue_settings)
        limits = RequestLimits(exchanges)
        library = SlidingWindowCounterRateLimiter(limits._storage)
        assert await limits.count(CALLER) is None
        assert await library.hit(item, CALLER.key_id)
        assert await limits.count(CALLER) is None
        assert CALLER.usage.requests
        stats = await library.get_window_stats(item, CALLER.key_id)
        assert CALLER.usage.requests.remaining == stats.remaining == 2
        await exchanges.close()

    asyncio.run(run())


def test_two_hundred_at_once_on_two_gateways_get_what_the_limit_allows(queue_settings: QueueSettings) -> None:
    async def run() -> list[bool]:
        opened = [Exchanges(queue_settings) for _ in range(2)]
        limits = [RequestLimits(each) for each in opened]
        refused = await asyncio.gather(*(each.count(CALLER) for each in limits * 100))
        for each in opened:
            await each.close()
        return [window is None for window in refused]

    assert sum(asyncio.run(run())) == 5


def test_scripts_that_redis_forgot_are_loaded_again_without_a_pause(
    queue_settings: QueueSettings, redis: Redis
) -> None:
    async def run() -> None:
        exchanges = Exchanges(queue_settings)
        limits = RequestLimits(exchanges)
        for remaining in (4, 3):
            redis.script_flush()
            async with asyncio.timeout(1):
                assert await limits.count(CALLER) is None
            assert CALLER.usage.requests
            assert CALLER.usage.requests.remaining == remaining
        await exchanges.close()

    asyncio.run(run())
