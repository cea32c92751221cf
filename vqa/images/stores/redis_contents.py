"""Images in Redis, each under a key that expires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from redis import Redis


def image_key(reference: str) -> str:
    return f"vqa:image:{reference}"


class RedisContents:
    """Contents over a synchronous connection; each method is one round trip. Needs Redis 7.0 for EXPIRE ... GT."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def write(self, contents: Mapping[str, bytes], keep_s: Mapping[str, int]) -> Mapping[str, int | None]:
        if not keep_s:
            return {}
        with self._redis.pipeline(transaction=False) as pipe:
            for name, seconds in keep_s.items():
                if name in contents:
                    pipe.set(image_key(name), contents[name], nx=True, ex=seconds)
                else:
                    pipe.strlen(image_key(name))
                pipe.expire(image_key(name), seconds, gt=True)
            replies = pipe.execute()[::2]
        return {name: int(reply) or None for name, reply in zip(keep_s, replies, strict=True) if name not in contents}

    def read(self, references: Sequence[str]) -> Sequence[bytes | None]:
        if not references:
            return []
        return cast(list[bytes | None], self._redis.mget([image_key(name) for name in references]))

    def sizes(self, references: Sequence[str]) -> Mapping[str, int | None]:
        with self._redis.pipeline(transaction=False) as pipe:
            for name in references:
                pipe.strlen(image_key(name))
            return {name: size or None for name, size in zip(references, pipe.execute(), strict=True)}

    def delete(self, reference: str) -> None:
        self._redis.delete(image_key(reference))
