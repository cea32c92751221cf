"""Bounds how many fetches run at once, so that a slow host, or a caller who names many, delays only its own images."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

#: fetches at once, in all and from one host; each holds at most an image of VQA_IMAGE_MAX_BYTES
MOST, MOST_OF_HOST = 64, 6


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    host: str
    caller: str | None
    turn: asyncio.Future[None]


class Places:
    """The places of one event loop.

    A caller gets no further place unless more are free than it has: one has at most half of 64, a second one a
    quarter, and so on, so that all are taken only by seven together. Whoever came first of those who may have a place
    gets it, and holds none while waiting for a host.
    """

    def __init__(self, most: int = MOST, of_host: int = MOST_OF_HOST, of_caller: int = MOST) -> None:
        self._most, self._of_host, self._of_caller = most, of_host, of_caller
        self._hosts: Counter[str] = Counter()
        self._callers: Counter[str | None] = Counter()
        # a dictionary for its order
        self._waiting: dict[_Waiter, None] = {}

    @asynccontextmanager
    async def place(self, host: str, caller: str | None, timeout_s: float) -> AsyncIterator[None]:
        """Wait for a place and hold it. Without others, the caller is None, who may have all.

        Raises TimeoutError after `timeout_s` seconds; leaving the wait takes no place.
        """
        mine = _Waiter(host, caller, asyncio.get_running_loop().create_future())
        self._waiting[mine] = None
        self._admit()
        try:
            async with asyncio.timeout(timeout_s):
                await mine.turn
            yield
        finally:
            if mine in self._waiting:
                del self._waiting[mine]
            else:
                self._release(mine)
            self._admit()

    def _admit(self) -> None:
        for each in list(self._waiting):
            if self._callers.total() >= self._most:
                break
            # one that is done was cancelled, and leaves by itself
            if not each.turn.done() and self._may_have(each):
                del self._waiting[each]
                self._hosts[each.host] += 1
                self._callers[each.caller] += 1
                each.turn.set_result(None)

    def _may_have(self, waiter: _Waiter) -> bool:
        if self._hosts[waiter.host] >= self._of_host:
            return False
        free = self._most - self._callers.total()
        return waiter.caller is None or self._callers[waiter.caller] < min(free, self._of_caller)

    def _release(self, waiter: _Waiter) -> None:
        self._hosts[waiter.host] -= 1
        self._callers[waiter.caller] -= 1
        # else names stay for ever
        self._hosts, self._callers = +self._hosts, +self._callers
