"""Who gets a place when there are too few: nobody takes all, and whoever leaves takes none."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from vqa.fetch.places import Places


class Callers:
    """Callers who each hold the places that they get until they let go."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._let_go = asyncio.Event()
        self.holding: Counter[str | None] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, caller: str | None, *hosts: str) -> None:
        self._tasks += [asyncio.create_task(self._hold(caller, host)) for host in hosts]
        # each task runs until it waits
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def let_go(self) -> None:
        self._let_go.set()
        await asyncio.gather(*self._tasks)

    async def _hold(self, caller: str | None, host: str) -> None:
        async with self._places.place(host, caller, 10):
            self.holding[caller] += 1
            await self._let_go.wait()


def hosts(count: int) -> list[str]:
    return [f"{number}.example" for number in range(count)]


async def all_of_a_gateway() -> None:
    callers = Callers(Places(12, of_host=12, of_caller=4))
    for key in "abcde":
        await callers.ask(key, *[""] * 50)
    assert [callers.holding[key] for key in "abcde"] == [4, 4, 2, 1, 1]
    await callers.let_go()
    assert callers.holding.total() == 250


async def all_of_a_worker() -> None:
    callers = Callers(Places())
    # slow hosts: each caller has six places at each of them
    for number, caller in enumerate("abcdefg"):
        await callers.ask(caller, *(f"{host}.{number}" for host in hosts(6) for _ in range(11)))
    assert [callers.holding[caller] for caller in "abcdefg"] == [32, 16, 8, 4, 2, 1, 1]
    await callers.let_go()
    assert callers.holding.total() == 7 * 66


async def all_of_one_without_others() -> None:
    callers = Callers(Places(12, of_host=12, of_caller=4))
    await callers.ask(None, *[""] * 20)
    assert callers.holding.total() == 12
    await callers.let_go()


async def waiting_for_a_host_holds_nothing() -> None:
    callers = Callers(Places(4, of_host=1))
    await callers.ask("a", *["slow.example"] * 20)
    assert callers.holding["a"] == 1
    await callers.ask("a", "other.example")
    assert callers.holding["a"] == 2
    await callers.ask("b", "slow.example", "third.example")
    assert callers.holding["b"] == 1
    await callers.let_go()


async def leaving_takes_no_place() -> None:
    places = Places(1, of_host=1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(places.place("a.example", "a", 1))
        with pytest.raises(TimeoutError):
            await places.place("a.example", "b", 0.01).__aenter__()
        leaver, stayer = (asyncio.create_task(places.place("a.example", name, 1).__aenter__()) for name in "bc")
        await asyncio.sleep(0)
        leaver.cancel()
    await asyncio.wait_for(stayer, 1)
    assert leaver.cancelled()


async def leaving_as_the_turn_comes_gives_the_place_on() -> None:
    places = Places(1, of_host=1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(places.place("a.example", "a", 1))
        leaver, stayer = (asyncio.create_task(places.place("a.example", name, 1).__aenter__()) for name in "bc")
        await asyncio.sleep(0)
    # it has the place, and does not know it yet
    leaver.cancel()
    await asyncio.wait_for(stayer, 1)


@pytest.mark.parametrize(
    "scene",
    [
        all_of_a_gateway,
        all_of_a_worker,
        all_of_one_without_others,
        waiting_for_a_host_holds_nothing,
        leaving_takes_no_place,
        leaving_as_the_turn_comes_gives_the_place_on,
    ],
    ids=lambda scene: scene.__name__.replace("_", "-"),
)
def test_places(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 10))
