"""The janitor sweeps the ledger every two seconds: a thread in every worker and supervisor, one of them at a time.

For its first rounds, and after a gap in them, it does what needs no judgement of leases, and leaves the lock alone.
"""

from __future__ import annotations

import logging
import threading
import time

from celery import Celery
from redis import Redis

from vqa.connection import UNREACHED
from vqa.ledger.sweep import Sweep
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

ROUND_S = 2.0


class Janitor:
    """Runs rounds until stopped."""

    def __init__(self, redis: Redis, app: Celery, settings: QueueSettings) -> None:
        self._sweep = Sweep(redis, app, settings)
        self._lease_s = settings.lease_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._last_round = -float("inf")
        self._judges_from = float("inf")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round in hand."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=ROUND_S)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            try:
                self.round()
            except UNREACHED as error:
                log.warning("the janitor's round failed: %s; next one in %.0f s", type(error).__name__, ROUND_S)
            except Exception:
                log.exception("the janitor's round failed; next one in %.0f s", ROUND_S)

    def round(self) -> None:
        """Everything that is due, if no other janitor is at work."""
        judges_from = self._judges_leases()
        # one that may not judge leases yet does the rest and keeps nobody from the lock: what is done twice is harmless
        if judges_from is None or self._sweep.locked():
            self._sweep.run(judges_from)
        self._last_round = time.monotonic()

    def _judges_leases(self) -> int | None:
        """Not within a lease time of Redis starting, or of a gap in our own rounds: workers could not renew then."""
        settled = self._sweep.settled()
        # after the call: Redis may have held it up
        now = time.monotonic()
        if now - self._last_round > ROUND_S + 1.0:
            self._judges_from = now + self._lease_s
        return settled if now >= self._judges_from else None
