"""Stored images: sent once, then named by an `img_` id wherever an image is.

`vqa:img:{id}` holds the image's description as JSON and expires with it; the bytes are in the image store under their
hash. Functions raise redis.exceptions.RedisError unless noted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self, cast

import redis.asyncio
from redis import Redis

from producer.ids import new_id
from vqa.errors import ImageMissing
from vqa.images.file import read_header
from vqa.images.limits import FileLimits
from vqa.images.store import ImageStore, reference

PREFIX = "img"

#: inside `StoredImage`, `bytes` is a field
_Content = bytes


def record_key(id: str) -> str:
    return f"vqa:img:{id}"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The description of a stored image."""

    id: str
    #: sha256: reference into the image store; internal, never shown over HTTP
    reference: str
    #: size of the file
    bytes: int
    #: pixels, as the header says; 0 for a PDF document
    width: int
    height: int
    #: as Pillow names it: JPEG, PNG, ...
    format: str
    #: seconds since 1970; from `expires_at` on the id is unknown
    created_at: int
    expires_at: int

    @classmethod
    def describe(cls, data: _Content, tenant: str | None, ttl_s: int, limits: FileLimits) -> Self:
        """Check the image's header and give it an id that belongs to the tenant. Raises BadImage.

        Takes a millisecond per few megabytes; an event loop calls it in a thread.
        """
        # the pages are chosen by those who ask about the image: however many there are, it has a first
        image = read_header(data, limits, pages=(1, 1))
        now = int(time.time())
        return cls(
            new_id(PREFIX, tenant),
            reference(data),
            len(data),
            image.width,
            image.height,
            image.format,
            now,
            now + ttl_s,
        )

    @property
    def ttl_s(self) -> int:
        return self.expires_at - self.created_at

    @classmethod
    def parse(cls, id: str, record: _Content | None) -> Self:
        """Read a record. Raises ImageMissing if there is none, or another program has written it."""
        if record is not None:
            with suppress(ValueError, TypeError, RecursionError):
                return cls(**json.loads(record))
        raise ImageMissing(f"image {id} is unknown or has expired; store it again")


def store(redis: Redis, images: ImageStore, image: StoredImage, data: bytes) -> None:
    """Store the image; bytes that the image store has already are not sent again. Raises StoreUnavailable."""
    keep_s = {image.reference: float(image.ttl_s)}
    if images.write({}, keep_s)[image.reference] != len(data):
        images.write({image.reference: data}, keep_s)
    # last, so that an id always has its image
    redis.set(record_key(image.id), json.dumps(asdict(image)), ex=image.ttl_s)


def read(redis: Redis, id: str) -> StoredImage:
    """Return the description of a stored image. Raises ImageMissing."""
    return StoredImage.parse(id, cast(bytes | None, redis.get(record_key(id))))


def remove(redis: Redis, id: str) -> bool:
    """Forget the id; return False if it is unknown. The bytes expire with the last job or id that uses them."""
    return bool(redis.delete(record_key(id)))


def resolve(redis: Redis, ids: Iterable[str]) -> dict[str, str]:
    """Return the sha256: reference of each stored image, in one round trip. Raises ImageMissing, naming the id.

    Whether a caller may use an id is for the caller to check (`producer.ids.is_owner`).
    """
    names = list(dict.fromkeys(ids))
    return _references(names, cast(list[bytes | None], redis.mget(map(record_key, names))) if names else [])


async def resolve_async(redis: redis.asyncio.Redis, ids: Iterable[str]) -> dict[str, str]:
    """Do as `resolve`."""
    names = list(dict.fromkeys(ids))
    records = await redis.mget(list(map(record_key, names))) if names else []
    return _references(names, cast(list[bytes | None], records))


def _references(ids: Sequence[str], records: Sequence[bytes | None]) -> dict[str, str]:
    found: Mapping[str, StoredImage] = {id: StoredImage.parse(id, each) for id, each in zip(ids, records, strict=True)}
    return {id: image.reference for id, image in found.items()}
