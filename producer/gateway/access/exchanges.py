"""Redis calls about keys and limits, a bounded number at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio

from producer.client.outage import unavailable
from vqa.redis.connection import REDIS_ERRORS, connect_async
from vqa.redis.error_replies import ErrorReply
from vqa.settings import QueueSettings

#: calls at once
_PLACES = 32


class Exchanges:
    """Connections for keys and limits alone, so that these do not wait behind files and images."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(_PLACES)
        #: when Redis last did not reply (monotonic), and why
        self._failed: tuple[float, BaseException | None] = (0.0, None)
        self.redis: redis.asyncio.Redis = connect_async(settings)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Wait for a place, and give the connection. Raises QueueUnavailable in place of Redis's errors.

        Once Redis does not reply to one call, all that wait for a place fail too: one after the other, they would take
        minutes.
        """
        asked = time.monotonic()
        async with self._places:
            failed_at, failure = self._failed
            if failure and failed_at >= asked:
                raise unavailable(failure, self._settings) from failure
            try:
                yield self.redis
            except REDIS_ERRORS as error:
                if ErrorReply.parse(error) is None:
                    self._failed = time.monotonic(), error
                raise unavailable(error, self._settings) from error

    async def close(self) -> None:
        await self.redis.aclose()
