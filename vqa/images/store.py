"""The image store: images by the hash of their content, so that jobs about the same image share it.

An image is kept until some time (VQA_IMAGES_KEEP_S) after the latest deadline of its jobs; there is no reference count.
The bytes are in Redis, or in a folder or bucket (`vqa.images.stores`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Self, cast

from redis import Redis

from vqa.errors import ImageMissing, ImageUnavailable
from vqa.images.stores.contents import Contents, StoreUnavailable
from vqa.images.stores.open import open_contents
from vqa.images.stores.redis_contents import RedisContents
from vqa.images.stores.redis_contents import image_key as image_key

#: seconds that an image is kept after the deadline, for a late attempt or for inspection: VQA_IMAGES_KEEP_S's default
MARGIN_S = 3600


def reference(data: bytes) -> str:
    """Return the reference to these bytes: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ImageStore:
    """The image store over a synchronous connection. Methods raise redis.exceptions.RedisError and StoreUnavailable."""

    def __init__(self, redis: Redis, contents: Contents | None = None, margin_s: int = MARGIN_S) -> None:
        self._contents = RedisContents(redis) if contents is None else contents
        self._margin_s = margin_s

    @classmethod
    def open(cls, redis: Redis, url: str | None, margin_s: int) -> Self:
        """Open the store of VQA_IMAGES_URL and VQA_IMAGES_KEEP_S. Raises SettingsError."""
        return cls(redis, open_contents(redis, url), margin_s)

    def put(self, data: bytes, timeout_s: float) -> str:
        """Store the image for a job with that timeout; return its reference."""
        return self.put_many([data], timeout_s)[data]

    def put_many(self, contents: Iterable[bytes], timeout_s: float) -> Mapping[bytes, str]:
        """Store several images; return their references."""
        references = {data: reference(data) for data in contents}
        by_name = {name: data for data, name in references.items()}
        self.write(by_name, dict.fromkeys(by_name, timeout_s))
        return references

    def write(self, contents: Mapping[str, bytes], timeouts_s: Mapping[str, float]) -> Mapping[str, int | None]:
        """Store images by reference, and keep all of `timeouts_s` for jobs with these timeouts.

        Returns the sizes in bytes of the images without `contents`; None for one that is not in the store.
        """
        keep_s = {name: int(timeout_s) + self._margin_s for name, timeout_s in timeouts_s.items()}
        return self._contents.write(contents, keep_s) if keep_s else {}

    def extend(self, references: Iterable[str], timeout_s: float) -> None:
        """Keep images that are in the store already for a job with that timeout."""
        self.write({}, dict.fromkeys(references, timeout_s))

    def sizes(self, references: Iterable[str]) -> Mapping[str, int | None]:
        """Return the sizes of images in bytes; None for one that is not in the store."""
        return self._contents.sizes(list(dict.fromkeys(references)))

    def get(self, reference: str) -> bytes:
        """Return the image's bytes. Raises ImageMissing and ImageUnavailable."""
        return self.get_many([reference])[0]

    def get_many(self, references: list[str]) -> list[bytes]:
        """Return several images, in order. Raises ImageMissing, also for other bytes than stored, and ImageUnavailable.

        StoreUnavailable becomes ImageUnavailable, which has the job tried again.
        """
        try:
            found = self._contents.read(references)
        except StoreUnavailable as error:
            raise ImageUnavailable(str(error)) from error
        for name, data in zip(references, found, strict=True):
            if data is None:
                raise ImageMissing(f"image {name[:19]}... is not in the image store; submit the job again")
            if reference(data) != name:
                # kept, it would be in the way of the right one
                with suppress(StoreUnavailable):
                    self._contents.delete(name)
                raise ImageMissing(f"image {name[:19]}... was overwritten in the image store; submit the job again")
        return cast(list[bytes], found)
