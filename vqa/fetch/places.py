"""Bounds how many fetches run at once, in all and for each host, so that a slow host delays only its own images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

#: fetches at once; each holds at most an image of VQA_IMAGE_MAX_BYTES
MOST, MOST_OF_HOST = 32, 6


@dataclass(slots=True)
class _Host:
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_OF_HOST))
    #: those that have a place or wait for one
    users: int = 0


class Places:
    """The places of one event loop; whoever came first gets the next."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST)
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def place(self, host: str, timeout_s: float) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises TimeoutError after `timeout_s` seconds."""
        mine = self._hosts.setdefault(host, _Host())
        mine.users += 1
        try:
            async with asyncio.timeout(timeout_s) as waiting, mine.places, self._all:
                waiting.reschedule(None)
                yield
        finally:
            mine.users -= 1
            if not mine.users:
                self._hosts.pop(host, None)
