"""Files in Redis, in pieces of 1 MiB that expire by themselves.

vqa:file:{id}:{n}  piece number n
vqa:files:sizes    hash: bytes that each file has reserved, and their sum
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import cast

import redis.asyncio
from redis.exceptions import OutOfMemoryError

from producer.gateway.files.record import FileRecord
from producer.gateway.files.store import PIECE_BYTES, UPLOAD_S, FileStoreFull, missing, pieces

_SIZES = "vqa:files:sizes"

#: id, bytes, limit of the sum; returns whether they were reserved
_RESERVE = f"""
local sum = tonumber(redis.call('HGET', '{_SIZES}', 'sum') or 0)
if sum + ARGV[2] > tonumber(ARGV[3]) then return 0 end
redis.call('HINCRBY', '{_SIZES}', ARGV[1], ARGV[2])
redis.call('HINCRBY', '{_SIZES}', 'sum', ARGV[2])
return 1
"""

#: id
_RELEASE = f"""
local size = redis.call('HGET', '{_SIZES}', ARGV[1])
if not size then return end
redis.call('HDEL', '{_SIZES}', ARGV[1])
redis.call('HINCRBY', '{_SIZES}', 'sum', '-' .. size)
"""


def _piece_key(id: str, number: int) -> str:
    return f"vqa:file:{id}:{number}"


def _piece_keys(id: str, size: int) -> list[str]:
    return [_piece_key(id, number) for number in range(-(-size // PIECE_BYTES))]


class RedisFileStore:
    """A FileStore with at most `total_bytes` in all files together."""

    def __init__(self, connection: redis.asyncio.Redis, total_bytes: int) -> None:
        self._redis = connection
        self._total_bytes = total_bytes

    async def write(self, id: str, chunks: AsyncIterable[bytes]) -> int:
        size = number = 0
        async for piece in pieces(chunks):
            if not await self._redis.eval(_RESERVE, 0, id, str(len(piece)), str(self._total_bytes)):
                raise FileStoreFull(
                    f"all files together may have {self._total_bytes:,} bytes (VQA_FILES_TOTAL_BYTES); delete some"
                )
            try:
                await self._redis.set(_piece_key(id, number), piece, ex=UPLOAD_S)
            except OutOfMemoryError:
                raise FileStoreFull("Redis has reached its maxmemory; delete files, or wait until jobs end") from None
            size, number = size + len(piece), number + 1
        return size

    async def keep_until(self, id: str, size: int, expires_at: int) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in _piece_keys(id, size):
                pipe.expire(key, max(1, expires_at - int(time.time())))
            kept = await pipe.execute()
        if not all(kept):
            raise missing(id)

    async def read(self, record: FileRecord, offset: int = 0) -> AsyncIterator[bytes]:
        skip = offset % PIECE_BYTES
        for key in _piece_keys(record.id, record.bytes)[offset // PIECE_BYTES :]:
            piece = cast(bytes | None, await self._redis.get(key))
            if piece is None:
                raise missing(record.id)
            yield piece[skip:]
            skip = 0

    async def delete(self, id: str) -> None:
        # the sizes, not the record, tell how much there is: an upload that was cut off has no record
        size = int(await self._redis.hget(_SIZES, id) or 0)
        if size:
            await self._redis.delete(*_piece_keys(id, size))
        await self._redis.eval(_RELEASE, 0, id)
