"""The janitor: a thread in every worker and supervisor that sweeps the ledger every 2 s, one at a time.

Another thread deletes images in a folder or bucket (`workers.process.image_janitor`), which may take long.

In its first rounds, and after an interruption (`vqa.ledger.lease_check`), a janitor does not check leases and does not
take the lock.
"""

from __future__ import annotations

import logging
import threading

from celery import Celery
from redis import Redis

from vqa.ledger.lease_check import LeaseCheck
from vqa.ledger.sweep import Sweep
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.outage import RedisOutage
from vqa.settings import QueueSettings
from workers.process.image_janitor import ImageJanitor

log = logging.getLogger(__name__)

ROUND_S = 2.0


class Janitor:
    """Sweeps from `start` to `stop`. Raises SettingsError if images cannot be kept where VQA_IMAGES_URL says."""

    def __init__(self, redis: Redis, app: Celery, settings: QueueSettings) -> None:
        self._outage = RedisOutage(settings)
        self._sweep = Sweep(redis, app, settings)
        self._lease_check = LeaseCheck(redis, settings.lease_s)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._images = ImageJanitor(redis, settings.images_url) if settings.images_url else None

    def start(self) -> None:
        self._thread.start()
        if self._images is not None:
            self._images.start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping.set()
        if self._images is not None:
            self._images.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=ROUND_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.round()
                self._outage.answered()
            except REDIS_ERRORS as error:
                self._outage.failed(error)
            except Exception:
                log.exception("the janitor's round failed; next one in %.0f s", ROUND_S)
            self._stopping.wait(ROUND_S)

    def round(self) -> None:
        """Sweep once, unless another janitor has the lock."""
        lease_check_ms = self._lease_check.time_ms()
        # without lease checks no lock: a sweep twice is harmless, and a janitor that may check leases gets the lock
        if lease_check_ms is None or self._sweep.try_lock():
            self._sweep.run(lease_check_ms)
        self._lease_check.answered()
