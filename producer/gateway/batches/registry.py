"""The batches that the gateway keeps.

vqa:gateway:batch:{id}               hash: record, progress, errors, finished, and for output and errors deleted:{kind}
                                     and bytes:{kind}
vqa:gateway:batches:{tag}            sorted set: a tenant's batches by creation
vqa:gateway:idempotency:{tag}:{key}  digest of the first request with that Idempotency-Key, and its batch
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import redis.asyncio

from producer.gateway.batches.lease import Leases
from producer.gateway.batches.record import BatchRecord, LineError, Progress, SavedBatch
from producer.gateway.errors import KeyReused
from producer.gateway.files.listing import IdList
from producer.ids import owner_tag

#: seconds that an Idempotency-Key is remembered
_IDEMPOTENCY_S = 86_400


def _key(id: str) -> str:
    return f"vqa:gateway:batch:{id}"


class BatchRegistry:
    """Records of batches. Methods raise redis.exceptions.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis, leases: Leases) -> None:
        self._redis = connection
        self._leases = leases

    def ids(self, tenant: str | None) -> IdList:
        return IdList(self._redis, f"vqa:gateway:batches:{owner_tag(tenant)}")

    async def id_for(self, tenant: str | None, key: str, request: bytes, id: str) -> str:
        """Return the batch of an Idempotency-Key: that of the first request with it, else `id`. Raises KeyReused."""
        digest = hashlib.sha256(request).hexdigest()
        name = f"vqa:gateway:idempotency:{owner_tag(tenant)}:{hashlib.sha256(key.encode()).hexdigest()}"
        new = json.dumps({"digest": digest, "id": id})
        found = cast(bytes | None, await self._redis.set(name, new, nx=True, get=True, ex=_IDEMPOTENCY_S))
        if found is None:
            return id
        first = json.loads(found)
        if first["digest"] != digest:
            raise KeyReused
        return str(first["id"])

    async def add(self, record: BatchRecord) -> None:
        """Keep a new batch, and have it read; adding it again is harmless."""
        async with self._redis.pipeline() as pipe:
            pipe.hsetnx(_key(record.id), "record", record.to_json())
            pipe.expire(_key(record.id), record.life_s)
            self._leases.queue_add(pipe, record.id)
            await pipe.execute()
        await self.ids(record.tenant).add(record.id)

    async def get(self, ids: Sequence[str]) -> list[SavedBatch | None]:
        """Return batches in order; None for each that is gone."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(_key(id))
            return [SavedBatch.parse(fields) for fields in await pipe.execute()]

    async def save_progress(self, id: str, progress: Progress) -> None:
        await self._redis.hset(_key(id), "progress", progress.to_json())

    async def save_errors(self, id: str, errors: Sequence[LineError]) -> None:
        await self._redis.hset(_key(id), "errors", json.dumps([asdict(each) for each in errors]))

    async def finish(self, id: str) -> bool:
        """Note that the batch's end was attended to; return False if it was before."""
        return bool(await self._redis.hsetnx(_key(id), "finished", "1"))

    async def delete_file(self, id: str, kind: str) -> None:
        """Note that the owner has deleted the output or error file."""
        await self._redis.hset(_key(id), f"deleted:{kind}", "1")

    async def file_size(self, id: str, kind: str) -> int | None:
        """Return the size of a file of a batch that is over, if it was counted."""
        size = cast(bytes | None, await self._redis.hget(_key(id), f"bytes:{kind}"))
        return None if size is None else int(size)

    async def save_file_size(self, id: str, kind: str, size: int) -> None:
        await self._redis.hset(_key(id), f"bytes:{kind}", str(size))
