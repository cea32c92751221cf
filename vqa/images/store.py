"""The image store: images in Redis by the hash of their content, so that jobs about the same image share it.

An image expires MARGIN_S after the latest deadline of its jobs; there is no reference count and no deletion. Needs
Redis 7.0 for EXPIRE ... GT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from redis import Redis

from vqa.errors import ImageMissing

#: seconds that an image is kept after the deadline, for a late attempt or for inspection
MARGIN_S = 3600


def reference(data: bytes) -> str:
    """Return the reference to these bytes: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_key(reference: str) -> str:
    return f"vqa:image:{reference}"


def queue_put(pipe: Any, reference: str, data: bytes, timeout_s: float) -> None:
    """Add the two commands of a `put` to a pipeline of the synchronous or the asyncio client."""
    keep_s = int(timeout_s) + MARGIN_S
    pipe.set(image_key(reference), data, nx=True, ex=keep_s)
    pipe.expire(image_key(reference), keep_s, gt=True)


class ImageStore:
    """The image store over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, data: bytes, timeout_s: float) -> str:
        """Store the image for a job with that timeout; return its reference."""
        return self.put_many([data], timeout_s)[data]

    def put_many(self, contents: Iterable[bytes], timeout_s: float) -> Mapping[bytes, str]:
        """Store several images in one round trip; return their references."""
        references = {data: reference(data) for data in contents}
        if references:
            with self._redis.pipeline(transaction=False) as pipe:
                for data, name in references.items():
                    queue_put(pipe, name, data, timeout_s)
                pipe.execute()
        return references

    def extend(self, references: Iterable[str], timeout_s: float) -> None:
        """Keep images that are in the store already for a job with that timeout, in one round trip."""
        if names := set(references):
            with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.expire(image_key(name), int(timeout_s) + MARGIN_S, gt=True)
                pipe.execute()

    def get(self, reference: str) -> bytes:
        """Return the image's bytes. Raises ImageMissing."""
        return self.get_many([reference])[0]

    def get_many(self, references: list[str]) -> list[bytes]:
        """Return several images, in order, in one round trip. Raises ImageMissing, also for other bytes than stored."""
        if not references:
            return []
        found = cast(list[bytes | None], self._redis.mget([image_key(name) for name in references]))
        for name, data in zip(references, found, strict=True):
            if data is None:
                raise ImageMissing(f"image {name[:19]}... is not in the image store; submit the job again")
            if reference(data) != name:
                # kept, it would be in the way of the right one
                self._redis.delete(image_key(name))
                raise ImageMissing(f"image {name[:19]}... was overwritten in the image store; submit the job again")
        return cast(list[bytes], found)
