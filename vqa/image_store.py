"""Images in Redis under the hash of their content: ten jobs about one image keep it once.

An image lives until the latest deadline among its jobs plus a margin; nothing counts references and nothing deletes.
Redis 7.0 or later, for EXPIRE ... GT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from redis import Redis

from vqa.errors import ImageMissing

#: kept for so long after the deadline, so that a late attempt or a person can still look at it
MARGIN_S = 3600


def reference(data: bytes) -> str:
    """The name of these bytes: sha256 and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_key(reference: str) -> str:
    """Where the image of that reference is kept."""
    return f"vqa:image:{reference}"


def queue_put(pipe: Any, reference: str, data: bytes, timeout_s: float) -> None:
    """Queue the two commands of a `put` on a pipeline of either Redis client."""
    keep_s = int(timeout_s) + MARGIN_S
    pipe.set(image_key(reference), data, nx=True, ex=keep_s)
    pipe.expire(image_key(reference), keep_s, gt=True)


class ImageStore:
    """Puts and gets over a synchronous connection. Raises redis.exceptions.RedisError when Redis does."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, data: bytes, timeout_s: float) -> str:
        """Keep the image for a job of that timeout; returns its reference."""
        return self.put_many([data], timeout_s)[data]

    def put_many(self, contents: Iterable[bytes], timeout_s: float) -> Mapping[bytes, str]:
        """Keep several images in one round trip; each one's reference."""
        references = {data: reference(data) for data in contents}
        if references:
            with self._redis.pipeline(transaction=False) as pipe:
                for data, name in references.items():
                    queue_put(pipe, name, data, timeout_s)
                pipe.execute()
        return references

    def get(self, reference: str) -> bytes:
        """The image's bytes. Raises ImageMissing."""
        return self.get_many([reference])[0]

    def get_many(self, references: list[str]) -> list[bytes]:
        """Several images in one round trip, in their order. Raises ImageMissing."""
        if not references:
            return []
        found = cast(list[bytes | None], self._redis.mget([image_key(name) for name in references]))
        for name, data in zip(references, found, strict=True):
            if data is None:
                raise ImageMissing(f"image {name[:19]}... is not in the image store; submit the job again")
        return cast(list[bytes], found)
