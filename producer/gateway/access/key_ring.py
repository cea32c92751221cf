"""Finds the API keys of requests in Redis. Caches each for CACHE_S, after which a revocation takes effect."""

from __future__ import annotations

import asyncio
import hmac
import time
from datetime import UTC, datetime
from typing import cast

from producer.gateway.access.api_key import digest_of, is_well_formed
from producer.gateway.access.caller import Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.key_record import KeyRecord
from producer.gateway.access.keys import KEYS, read_record
from producer.gateway.errors import Unauthorized

#: seconds
CACHE_S = 1.0

_MISSING = "no API key was sent; send one as Authorization: Bearer vqa_..."
_MISTYPED = "this is no API key of this service: it is incomplete or mistyped"
#: one message for all three, so that nobody learns which keys there were
_REFUSED = "the API key is unknown, expired or revoked"


class KeyRing:
    """The keys in Redis, as one gateway process sees them.

    `open` lets everybody in while there is no key. A process that has seen a key demands one until it ends, so that a
    Redis that lost its data opens nothing.
    """

    def __init__(self, exchanges: Exchanges, open: bool) -> None:
        self._exchanges = exchanges
        self._open = open
        #: by digest: when it was asked for (monotonic), and the record
        self._cache: dict[str, tuple[float, KeyRecord]] = {}
        self._loading: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._counted = -CACHE_S

    async def caller(self, key: str | None) -> Caller:
        """Return who sends this key, or no key. Raises Unauthorized, QueueUnavailable."""
        well_formed = is_well_formed(key or "")
        # the first key may be younger than what is cached
        if self._open and not await self._has_keys(max_age_s=0 if well_formed else CACHE_S):
            return Caller()
        if not key:
            raise _unauthorized(_MISSING)
        if not well_formed:
            raise _unauthorized(_MISTYPED)
        digest = digest_of(key)
        record = await self._record(digest)
        # the digest again: what Redis or the cache found must be what was sent
        if record is None or not hmac.compare_digest(record.digest, digest) or not _is_active(record):
            raise _unauthorized(_REFUSED)
        return record.caller()

    async def _has_keys(self, max_age_s: float) -> bool:
        """Return whether there was ever a key, as Redis said at most so many seconds ago."""
        now = time.monotonic()
        if now >= self._counted + max_age_s:
            async with self._exchanges.exchange() as redis:
                self._open = not await redis.hlen(KEYS)
            self._counted = now
        return not self._open

    async def _record(self, digest: str) -> KeyRecord | None:
        asked, record = self._cache.get(digest, (-CACHE_S, None))
        if record and time.monotonic() < asked + CACHE_S:
            return record
        # requests that come together wait for one exchange
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._load(digest))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        return await asyncio.shield(task)

    async def _load(self, digest: str) -> KeyRecord | None:
        asked = time.monotonic()
        async with self._exchanges.exchange() as redis:
            data = cast(bytes | None, await redis.hget(KEYS, digest))
        record = read_record(digest, data) if data else None
        if record:
            self._cache[digest] = asked, record
        else:
            self._cache.pop(digest, None)
        return record

    def _loaded(self, digest: str, task: asyncio.Task[KeyRecord | None]) -> None:
        self._loading.pop(digest, None)
        if not task.cancelled():
            # marks it as seen, where every request that waited has gone
            task.exception()


def _is_active(record: KeyRecord) -> bool:
    return record.status(datetime.now(UTC)) == "active"


def _unauthorized(message: str) -> Unauthorized:
    challenge = 'Bearer realm="vqa"' + ("" if message == _MISSING else ', error="invalid_token"')
    return Unauthorized(message, code="invalid_api_key", headers={"WWW-Authenticate": challenge})
