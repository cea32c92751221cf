"""Opens the place that VQA_IMAGES_URL names."""

from __future__ import annotations

from redis import Redis

from vqa.errors import SettingsError
from vqa.images.stores.blobs import Blobs
from vqa.images.stores.contents import Contents
from vqa.images.stores.folder import Folder
from vqa.images.stores.index import DELETION_S
from vqa.images.stores.indexed_contents import IndexedContents
from vqa.images.stores.redis_contents import RedisContents
from vqa.images.stores.url import check_url, local_folder


def open_contents(redis: Redis, url: str | None) -> Contents:
    """Open the place of images: Redis if there is no URL. Raises SettingsError."""
    return IndexedContents(redis, open_blobs(url)) if url else RedisContents(redis)


def open_blobs(url: str) -> Blobs:
    """Open a folder or bucket. Raises SettingsError."""
    try:
        check_url(url)
    except ValueError as error:
        raise SettingsError(f"VQA_IMAGES_URL: {error}") from None
    if (folder := local_folder(url)) is not None:
        return Folder(folder)
    from vqa.images.stores.bucket import Bucket

    # so that a deletion ends long before its claim is stale
    return Bucket(url, DELETION_S / 3)
