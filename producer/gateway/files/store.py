"""Where the content of files is kept."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import ClassVar, Protocol

from producer.gateway.errors import NotFound, RequestError
from producer.gateway.files.record import FileRecord

#: bytes that are held in memory per file that is written or read
PIECE_BYTES = 2**20

#: seconds within which an upload has to end; what a killed gateway leaves of one is gone after that
UPLOAD_S = 3600


class FileStoreFull(RequestError):
    """All files together would have more bytes than are allowed."""

    status: ClassVar[int] = 429


class FileStoreUnavailable(RequestError):
    """The folder or object store of files does not answer, or refuses what is asked."""

    status: ClassVar[int] = 503


def missing(id: str) -> NotFound:
    """Return the error for a file whose record or content is gone."""
    return NotFound(f"there is no file {id}: it has expired, was deleted or belongs to somebody else")


class FileStore(Protocol):
    """Keeps the content of files by id. Methods raise FileStoreUnavailable or redis.exceptions.RedisError."""

    async def write(self, id: str, chunks: AsyncIterable[bytes]) -> int:
        """Store what `chunks` yields and return its size; after an error, the caller deletes what was stored.

        Raises FileStoreFull, and whatever `chunks` raises.
        """
        ...

    async def keep_until(self, id: str, size: int, expires_at: int) -> None:
        """Keep a file that is complete until then. Raises NotFound if a part of it is gone."""
        ...

    def read(self, record: FileRecord, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the content from byte `offset` on in pieces of about PIECE_BYTES. Raises NotFound."""
        ...

    async def delete(self, id: str) -> None:
        """Delete the content, if there is any."""
        ...


async def pieces(chunks: AsyncIterable[bytes], size: int = PIECE_BYTES) -> AsyncIterator[bytes]:
    """Regroup chunks of any length into pieces of `size` bytes; the last may be shorter."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
