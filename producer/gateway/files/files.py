"""The files of all tenants: records and lists in Redis, content in a store.

vqa:file:{id}       the record, as JSON
vqa:files:{tag}     sorted set: a tenant's files by creation
vqa:files:expiring  sorted set: ids by when they are to be deleted, uploads in progress included
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import cast

import redis.asyncio

from producer.gateway.errors import InvalidRequest, RequestTimeout
from producer.gateway.files.listing import IdList
from producer.gateway.files.object_store import ObjectFileStore, open_store
from producer.gateway.files.record import FileRecord, record_key
from producer.gateway.files.redis_store import RedisFileStore
from producer.gateway.files.store import UPLOAD_S, FileStore, missing
from producer.gateway.files.upload import Upload
from vqa.gateway_settings import FilesSettings

_EXPIRING = "vqa:files:expiring"
_ID = re.compile(rb"file_[0-9a-f]{12}_[0-9a-f]{24}")
#: files deleted in one round
_SWEPT = 100

#: seconds that OpenAI allows for expires_after
_SHORTEST_S, _LONGEST_S = 3600, 30 * 86_400


class Files:
    """Files by id. Raises SettingsError; methods raise redis.exceptions.RedisError and FileStoreUnavailable."""

    def __init__(self, connection: redis.asyncio.Redis, settings: FilesSettings) -> None:
        self._redis = connection
        self._settings = settings
        self._store: FileStore = (
            ObjectFileStore(open_store(settings.url))
            if settings.url
            else RedisFileStore(connection, settings.total_bytes)
        )

    def ids(self, tag: str) -> IdList:
        """Return the list of the files of the tenant with this tag (`producer.ids.owner_tag`)."""
        return IdList(self._redis, f"vqa:files:{tag}")

    async def receive(self, id: str, upload: Upload) -> FileRecord:
        """Store an upload under a new id.

        Raises InvalidRequest, BodyTooLarge, RequestTimeout or FileStoreFull; then nothing is left.
        """
        try:
            async with asyncio.timeout(UPLOAD_S):
                # first: whatever happens to this process, another one deletes what it leaves
                await self._redis.zadd(_EXPIRING, {id: time.time() + UPLOAD_S})
                size = await self._store.write(id, upload.content())
                return await self._finish(id, upload, size)
        except TimeoutError:
            await self._delete(id)
            raise RequestTimeout(f"the upload took longer than {UPLOAD_S} s") from None
        except BaseException:
            # also for a client that went away, whose task may be cancelled again
            await asyncio.shield(self._delete(id))
            raise

    async def _finish(self, id: str, upload: Upload, size: int) -> FileRecord:
        if upload.fields.get("purpose") != "batch":
            raise InvalidRequest("purpose: must be batch", param="purpose")
        now = int(time.time())
        expires_at = now + _life_s(upload.fields, self._settings.ttl_s)
        record = FileRecord(id, size, now, expires_at, upload.filename or "", "batch")
        await self._store.keep_until(id, size, expires_at)
        async with self._redis.pipeline() as pipe:
            pipe.set(record_key(id), record.to_json(), exat=expires_at)
            pipe.zadd(_EXPIRING, {id: expires_at})
            await pipe.execute()
        await self.ids(_tag(id)).add(id)
        return record

    async def get(self, id: str) -> FileRecord:
        """Return a file's record. Raises NotFound."""
        [record] = await self.records([id])
        if record is None:
            raise missing(id)
        return record

    async def records(self, ids: list[str]) -> list[FileRecord | None]:
        """Return the records of files in order; None for each that is gone."""
        texts = cast(list[bytes | None], await self._redis.mget(list(map(record_key, ids))))
        return list(map(FileRecord.parse, texts))

    def content(self, record: FileRecord, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the content from byte `offset` on. Raises NotFound."""
        return self._store.read(record, offset)

    async def delete(self, id: str) -> None:
        """Delete a file. Raises NotFound."""
        if not await self._redis.delete(record_key(id)):
            raise missing(id)
        await self._delete(id)

    async def _delete(self, id: str) -> None:
        await self._redis.delete(record_key(id))
        await self._store.delete(id)
        await self.ids(_tag(id)).remove([id])
        await self._redis.zrem(_EXPIRING, id)

    async def sweep(self) -> int:
        """Delete files that have expired and uploads that were cut off; return how many."""
        due = cast(list[bytes], await self._redis.zrangebyscore(_EXPIRING, "-inf", time.time(), 0, _SWEPT))
        for id in due:
            if _ID.fullmatch(id):
                await self._delete(id.decode())
            else:
                # another program's
                await self._redis.zrem(_EXPIRING, id)
        return len(due)


def _tag(id: str) -> str:
    return id.split("_")[1]


def _life_s(fields: Mapping[str, str], longest_s: int) -> int:
    """Return how many seconds a file is kept. Raises InvalidRequest."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return longest_s
    if anchor != "created_at":
        raise InvalidRequest("expires_after.anchor: must be created_at", param="expires_after.anchor")
    if seconds is None or not seconds.isdecimal() or not _SHORTEST_S <= int(seconds) <= _LONGEST_S:
        raise InvalidRequest(
            f"expires_after.seconds: must be from {_SHORTEST_S:,} to {_LONGEST_S:,}", param="expires_after.seconds"
        )
    return min(int(seconds), longest_s)
