"""Looks at a folder or bucket of images for `vqa doctor`: writes a small object there, and deletes it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

from redis import Redis

from producer.monitor.checks import Finding
from producer.monitor.probe import SLACK_S
from vqa.errors import SettingsError
from vqa.images.store import ImageStore, reference
from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.index import IMAGES
from vqa.images.stores.open import open_blobs
from vqa.images.stores.url import local_folder
from vqa.settings import QueueSettings

#: seconds after which what is due is deleted by running workers, unless there is very much of it
_LATE_S = 6 * SLACK_S


def image_store(redis: Redis, settings: QueueSettings) -> Iterator[Finding]:
    """Yield a finding if VQA_IMAGES_URL is set. Raises redis.exceptions.RedisError."""
    if settings.images_url is None:
        return
    folder = local_folder(settings.images_url)
    if folder is not None and not os.path.isdir(folder):
        # opening it would make it
        advice = "check that it is mounted here; the first producer or worker makes it"
        yield Finding("images", "wrong", f"there is no folder {folder} (VQA_IMAGES_URL)", advice)
        return
    try:
        # an image that nobody stores: images have at least one byte
        ImageStore.open(redis, settings.images_url, settings.images_keep_s).sizes([reference(b"")])
    except (SettingsError, StoreUnavailable) as error:
        yield Finding("images", "wrong", str(error), "check that it is mounted, or reachable, from here")
        return
    try:
        _write_and_delete(settings.images_url)
    except StoreUnavailable as error:
        advice = "producers write there, and workers delete: check its space, and that this user may write"
        yield Finding("images", "wrong", f"it can be read, but not written or deleted from: {error}", advice)
        return
    late = redis.zcount(IMAGES, "-inf", (redis.time()[0] - _LATE_S) * 1000)
    said = f"kept in VQA_IMAGES_URL: {redis.zcard(IMAGES):,}"
    if late:
        advice = "workers delete them: start one with the same VQA_IMAGES_URL, and see its log"
        yield Finding("images", "note", f"{said}; the time of {late:,} of them is over", advice)
    else:
        yield Finding("images", "ok", said)


def _write_and_delete(url: str) -> None:
    """Raises StoreUnavailable."""
    blobs = open_blobs(url)
    # no image has such a name; of a folder, workers delete it if this process is killed
    name = f"partial/doctor-{uuid.uuid4().hex}"
    blobs.put(name, b"vqa doctor")
    blobs.delete(name)
