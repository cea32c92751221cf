"""What every place for the bytes of images can do, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class StoreUnavailable(OSError):
    """A folder or bucket failed, and may work again later; the message names VQA_IMAGES_URL, and no URL.

    An OSError, and so one of `vqa.redis.connection.REDIS_ERRORS`: producers and workers treat it like an outage of
    Redis.
    """


class StoreFull(StoreUnavailable):
    """The folder's disk is full, or its quota is used up."""


class Contents(Protocol):
    """Bytes by reference. Methods raise redis.exceptions.RedisError and StoreUnavailable."""

    def write(self, contents: Mapping[str, bytes], keep_s: Mapping[str, int]) -> Mapping[str, int | None]:
        """Store `contents`, and keep every image of `keep_s` for at least so many seconds from now.

        Returns the sizes of the images that are in `keep_s` only: in bytes, None for one that is not there.
        """

    def read(self, references: Sequence[str]) -> Sequence[bytes | None]:
        """Return the bytes of images, in order; None for one that is not there."""

    def sizes(self, references: Sequence[str]) -> Mapping[str, int | None]:
        """Return the sizes of images in bytes; None for one that is not there."""

    def delete(self, reference: str) -> None:
        """Delete an image whose bytes are wrong."""
