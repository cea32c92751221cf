"""The janitor: a thread in every worker and supervisor that sweeps the ledger every 2 s, one at a time.

In its first rounds, and after a gap between rounds, a janitor does not check leases and does not take the lock.
"""

from __future__ import annotations

import logging
import threading
import time

from celery import Celery
from redis import Redis

from vqa.connection import REDIS_ERRORS
from vqa.ledger.sweep import Sweep
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

ROUND_S = 2.0


class Janitor:
    """Sweeps from `start` to `stop`."""

    def __init__(self, redis: Redis, app: Celery, settings: QueueSettings) -> None:
        self._sweep = Sweep(redis, app, settings)
        self._lease_s = settings.lease_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._last_round = -float("inf")
        self._check_leases_from = float("inf")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=ROUND_S)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            try:
                self.round()
            except REDIS_ERRORS as error:
                log.warning("the janitor's round failed: %s; next one in %.0f s", type(error).__name__, ROUND_S)
            except Exception:
                log.exception("the janitor's round failed; next one in %.0f s", ROUND_S)

    def round(self) -> None:
        """Sweep once, unless another janitor has the lock."""
        lease_check_ms = self._lease_check_time()
        # without lease checks no lock: a sweep twice is harmless, and a janitor that may check leases gets the lock
        if lease_check_ms is None or self._sweep.try_lock():
            self._sweep.run(lease_check_ms)
        self._last_round = time.monotonic()

    def _lease_check_time(self) -> int | None:
        """Return Redis's time in ms if leases may be checked now, else None.

        They may not within a lease time of Redis's start or of a gap between our rounds: workers could not renew then.
        """
        redis_ms = self._sweep.lease_check_time()
        # after the call, which Redis may have held up
        now = time.monotonic()
        if now - self._last_round > ROUND_S + 1.0:
            self._check_leases_from = now + self._lease_s
        return redis_ms if now >= self._check_leases_from else None
