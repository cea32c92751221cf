"""A thread that deletes images in a folder or bucket whose time is over. Redis deletes its own."""

from __future__ import annotations

import logging
import threading
import time

from redis import Redis

from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.index import Index
from vqa.images.stores.open import open_blobs
from vqa.images.stores.sweep import sweep
from vqa.redis.connection import REDIS_ERRORS

log = logging.getLogger(__name__)

#: with at most 200 images a round, one worker deletes 40 a second, as long as the store answers at once
ROUND_S = 5.0

#: seconds between two log lines while the store fails
_LOG_EVERY_S = 60.0


class ImageJanitor:
    """Sweeps from `start` to `stop`. Raises SettingsError if images cannot be kept at the URL."""

    def __init__(self, redis: Redis, url: str) -> None:
        self._index = Index(redis)
        self._blobs = open_blobs(url)
        self._silent_until = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="image-janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end after its current round; it may wait for the store, and is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.round()
            except StoreUnavailable as error:
                self._warn(str(error))
            except REDIS_ERRORS:
                # the janitor of the ledger says so
                pass
            except Exception:
                log.exception("expired images were not deleted; next round in %.0f s", ROUND_S)
            self._stopping.wait(ROUND_S)

    def round(self) -> int:
        """Delete images that are due, and return how many."""
        count = sweep(self._index, self._blobs)
        if count:
            log.info("%d images deleted: they were kept until VQA_IMAGES_KEEP_S after their jobs' deadlines", count)
        return count

    def _warn(self, said: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _LOG_EVERY_S
            log.warning("some or all expired images are not deleted: %s; trying again", said)
