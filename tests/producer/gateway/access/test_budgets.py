"""Budgets against the real clock: many at once, a dead gateway, a clock that steps, scripts that vanish."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from redis import Redis

from producer.gateway.access.budgets import SCRIPT, Budgets
from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from tests.producer.gateway.access.test_budget_model import ASKED, DAY_MS, MINUTE_MS, TOLD
from vqa.settings import QueueSettings

Open = Callable[..., AbstractAsyncContextManager[Budgets]]

IN_FLIGHT = Caller(key_id="key_a", allowance=Allowance(in_flight=3))
TOKENS = Caller(key_id="key_a", allowance=Allowance(tokens_per_minute=1000))


@pytest.fixture
def budgets(queue_settings: QueueSettings) -> Open:
    @asynccontextmanager
    async def open_budgets(script: str = SCRIPT) -> AsyncIterator[Budgets]:
        exchanges = Exchanges(queue_settings)
        try:
            yield Budgets(exchanges, script)
        finally:
            await exchanges.close()

    return open_budgets


def test_two_hundred_at_once_never_get_more_than_the_limits(budgets: Open) -> None:
    caller = Caller(key_id="key_a", allowance=Allowance(tokens_per_minute=1000, in_flight=70))

    async def run() -> None:
        async with budgets() as first, budgets() as second:
            verdicts = await asyncio.gather(
                *(
                    each.reserve(caller, f"{number}-{each is first}", 20, 60)
                    for number in range(100)
                    for each in (first, second)
                )
            )
            assert Counter(budget.verdict for budget in verdicts) == {"": 50, "minute": 150}
            refunds = (
                first.settle(caller, f"{number}-{first_}", 0) for number in range(100) for first_ in (True, False)
            )
            await asyncio.gather(*refunds)
            budget = await second.look(caller)
            assert budget.minute
            assert (budget.minute.used, budget.in_flight) == (0, 0)

    asyncio.run(run())


def test_places_of_a_dead_gateway_free_themselves_at_the_deadline(budgets: Open) -> None:
    async def run() -> None:
        async with budgets() as each:
            for job in ("a", "b", "c"):
                assert (await each.reserve(IN_FLIGHT, job, 1, 2)).verdict == ""
            full = await each.reserve(IN_FLIGHT, "d", 1, 60)
            assert full.verdict == "flight"
            assert 0 <= full.free_in_s <= 2
            # the three began one after the other, and those that are over leave when another one is reserved
            while (await each.reserve(IN_FLIGHT, "d", 1, 60)).in_flight > 1:
                await each.settle(IN_FLIGHT, "d", 0)
                await asyncio.sleep(0.02)
            assert (await each.look(IN_FLIGHT)).in_flight == 1

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_expected_wait_follows_how_long_jobs_last(budgets: Open, redis: Redis) -> None:
    async def run() -> None:
        async with budgets(SCRIPT.replace(ASKED, TOLD)) as each:
            redis.set("now", 0)
            for job in ("a", "b", "c"):
                await each.reserve(IN_FLIGHT, job, 1, 1000)
            redis.set("now", 6000)
            await each.settle(IN_FLIGHT, "a", 1)
            await each.reserve(IN_FLIGHT, "d", 1, 1000)
            # three jobs of 6 s: one ends every 2 s
            assert (await each.reserve(IN_FLIGHT, "e", 1, 1000)).free_in_s == 2

    asyncio.run(run())


def test_a_clock_that_is_set_back_forgets_nothing_within_a_window_and_blocks_nobody_for_longer(
    budgets: Open, redis: Redis
) -> None:
    border = 10_000 * MINUTE_MS

    async def used_at(each: Budgets, now: int) -> int:
        redis.set("now", now)
        budget = await each.look(TOKENS)
        assert budget.minute
        return budget.minute.used

    async def run() -> None:
        async with budgets(SCRIPT.replace(ASKED, TOLD)) as each:
            redis.set("now", border)
            await each.charge(TOKENS, 600)
            assert await used_at(each, border - 1000) == 600
            assert await used_at(each, border - DAY_MS) == 0

    asyncio.run(run())


def test_scripts_that_redis_forgot_are_sent_again_without_a_pause(budgets: Open, redis: Redis) -> None:
    async def run() -> None:
        async with budgets() as each:
            await each.charge(TOKENS, 1)
            redis.script_flush()
            async with asyncio.timeout(1):
                budget = await each.charge(TOKENS, 1)
            assert budget.minute
            assert budget.minute.used == 2

    asyncio.run(run())


def test_nothing_is_kept_for_a_key_that_is_no_longer_used(budgets: Open, redis: Redis) -> None:
    async def run() -> None:
        async with budgets() as each:
            await each.reserve(IN_FLIGHT, "a", 5, 60)

    asyncio.run(run())
    names = redis.keys("vqa:budget:*")
    assert len(names) == 3
    assert all(0 < redis.pttl(name) <= 2 * DAY_MS for name in names)
