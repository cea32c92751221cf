"""Lists with cursors: the ids of one tenant's files or batches in the order of their creation."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar, cast

import redis.asyncio

from producer.gateway.errors import InvalidRequest

#: seconds after which an id leaves its list; longer than anything is kept
_OLDEST_S = 500 * 86_400
#: seconds for which a removed id still serves as a cursor, for a caller that deletes what a page showed
_REMOVED_S = 3600

#: ids that are looked up at once
_PAGE = 1000

Order = Literal["asc", "desc"]
T = TypeVar("T")


def page_object(objects: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return OpenAI's object of a page of a list."""
    first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
    return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": has_more}


def now_us() -> int:
    """Return the time in microseconds, fine enough that no two ids of a tenant have the same."""
    return time.time_ns() // 1000


class IdList:
    """A sorted set of ids by creation time. Methods raise redis.exceptions.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis, key: str) -> None:
        self._redis = connection
        self._key = key

    async def add(self, id: str) -> None:
        """Add an id as the newest, unless it is listed."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(self._key, {id: now_us()}, nx=True)
            pipe.zremrangebyscore(self._key, "-inf", now_us() - _OLDEST_S * 1_000_000)
            pipe.expire(self._key, _OLDEST_S)
            await pipe.execute()

    async def remove(self, ids: Iterable[str]) -> None:
        """Take ids off the list; they stay valid cursors for an hour."""
        names = list(ids)
        if not names:
            return
        scores = await self._redis.zmscore(self._key, names)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(self._key, *names)
            for id, score in zip(names, scores, strict=True):
                if score is not None:
                    pipe.set(self._removed(id), f"{score:.0f}", ex=_REMOVED_S)
            await pipe.execute()

    async def page(self, after: str | None, limit: int, order: Order) -> list[str]:
        """Return up to `limit` ids that follow `after`. Raises InvalidRequest if that id was never listed."""
        newest_first = order == "desc"
        first, last = ("+inf", "-inf") if newest_first else ("-inf", "+inf")
        if after is not None:
            first = f"({await self._place(after):.0f}"
        ids = await self._redis.zrange(
            self._key,
            first,
            last,
            desc=newest_first,
            byscore=True,
            offset=0,
            num=limit,
        )
        return [id.decode() for id in cast(list[bytes], ids)]

    async def collect(
        self,
        after: str | None,
        limit: int,
        order: Order,
        load: Callable[[list[str]], Awaitable[list[T | None]]],
        wanted: Callable[[T], bool] = lambda found: True,
    ) -> tuple[list[T], bool]:
        """Return up to `limit` objects that follow the id `after`, and whether there are more.

        `load` returns None for an id that stands for nothing any more; it leaves the list.
        """
        found: list[T] = []
        while len(found) <= limit:
            size = min(limit + 1, _PAGE)
            ids = await self.page(after, size, order)
            loaded = await load(ids) if ids else []
            await self.remove(id for id, each in zip(ids, loaded, strict=True) if each is None)
            found += (each for each in loaded if each is not None and wanted(each))
            if len(ids) < size:
                break
            after = ids[-1]
        return found[:limit], len(found) > limit

    async def _place(self, id: str) -> float:
        score = await self._redis.zscore(self._key, id)
        removed = await self._redis.get(self._removed(id)) if score is None else None
        if score is None and removed is None:
            raise InvalidRequest("after: no such id", param="after")
        return float(score or removed or 0)

    def _removed(self, id: str) -> str:
        return f"{self._key}:removed:{id}"
