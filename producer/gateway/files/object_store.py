"""Files in a folder or an object store: file:///, s3://, gs://, az://, through obstore."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from producer.gateway.files.record import FileRecord
from producer.gateway.files.store import PIECE_BYTES, FileStoreUnavailable, missing
from vqa.errors import SettingsError
from vqa.object_store import runs_here

#: bytes of one part of an upload, and parts in progress at once; S3 takes 10,000 parts, so 80 GB
_PART_BYTES = 8 * 2**20
_PARTS = 2


def open_store(url: str) -> ObjectStore:
    """Open the store of a URL; credentials come from its own variables, such as AWS_*. Raises SettingsError."""
    try:
        return from_url(url, mkdir=True) if url.startswith("file:") else from_url(url)
    except (BaseError, ValueError, TypeError, OSError) as error:
        # its messages go on with details of its own code
        reason = str(error).partition("\n")[0][:200]
        raise SettingsError(f"VQA_FILES_URL: {reason or type(error).__name__}") from None


class ObjectFileStore:
    """A FileStore over obstore."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def write(self, id: str, chunks: AsyncIterable[bytes]) -> int:
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                size += len(chunk)
                yield chunk

        with _store_errors():
            await obstore.put_async(
                self._store, id, counted(), use_multipart=True, chunk_size=_PART_BYTES, max_concurrency=_PARTS
            )
        return size

    async def keep_until(self, id: str, size: int, expires_at: int) -> None:
        """Do nothing: `Files.sweep` deletes what has expired."""

    async def read(self, record: FileRecord, offset: int = 0) -> AsyncIterator[bytes]:
        if offset >= record.bytes:
            return
        try:
            with _store_errors():
                found = await obstore.get_async(self._store, record.id, options={"range": {"offset": offset}})
                async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                    yield bytes(piece)
        except FileNotFoundError:
            raise missing(record.id) from None

    async def delete(self, id: str) -> None:
        with _store_errors(), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, id)


@contextmanager
def _store_errors() -> Iterator[None]:
    if not runs_here():
        raise FileStoreUnavailable(
            "the store of files (VQA_FILES_URL) cannot be used in a process forked after its first use"
        )
    try:
        yield
    except BaseError as error:
        raise FileStoreUnavailable(f"the store of files (VQA_FILES_URL) failed: {type(error).__name__}") from error
