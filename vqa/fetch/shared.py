"""Lets callers that ask for the same at the same time share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[bytes]
    callers: int = 0


class SharedFetches:
    """The fetches of one event loop that are under way, by their address."""

    def __init__(self, fetch: Callable[[str, str], Coroutine[Any, Any, bytes]]) -> None:
        self._fetch = fetch
        self._flights: dict[str, _Flight] = {}

    async def get(self, url: str, caller: str) -> bytes:
        """Return what the fetch returns, or raise what it raises; it ends when its last caller is cancelled.

        It is the first caller's who asks for it.
        """
        flight = self._flights.get(url)
        if flight is None:
            flight = self._flights[url] = _Flight(asyncio.create_task(self._fetch(url, caller)))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if not flight.callers:
                self._flights.pop(url, None)
                flight.task.cancel()
