"""The janitor acts on what is due in the ledger: leases that ran out, delays that ended, deadlines that passed.

A thread in every worker and supervisor; one of them at a time, by a lock in Redis. Whatever it does twice is harmless:
the ledger moves only what is due, and a wake-up too many is refused by `take`.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from typing import cast

from celery import Celery
from redis import Redis

from vqa.celery import wake
from vqa.connection import UNREACHED
from vqa.errors import DeadlineExceeded, JobGivenUp, VQAError
from vqa.ledger import Ledger, State
from vqa.outcome import close_with
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

ROUND_S = 2.0

#: a job that has lost a worker is not taken more often than this, whatever its retry policy says
LOST_ATTEMPTS = 3

_LOCK = "vqa:janitor"
_LOCK_MS = 5000

#: moved in one round and state, so that a round stays short; the rest is due in the next
_PORTION = 1000

#: a worker that was not seen for so long is struck off the list
_GONE_S = 3600


class Janitor:
    """Runs rounds until stopped."""

    def __init__(self, redis: Redis, app: Celery, settings: QueueSettings) -> None:
        self._redis = redis
        self._ledger = Ledger(redis)
        self._app = app
        self._settings = settings
        self._name = uuid.uuid4().hex
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
        judges = self._may_judge_leases()
        if self._locked():
            self._act(judges)
        self._last_round = time.monotonic()

    def _act(self, judges: bool) -> None:
        for id in self._ledger.due(None, _PORTION):
            self._close(id, DeadlineExceeded("the job's timeout ran out before it was answered"))
        for state in cast(tuple[State, ...], ("leased", "delayed") if judges else ("delayed",)):
            for id in self._ledger.due(state, _PORTION):
                if self._ledger.retry(id, "", error="WorkerLost: its lease ran out" if state == "leased" else ""):
                    self._send_on(id)
        for name in self._ledger.gone(_GONE_S):
            self._ledger.leave(name)

    def _may_judge_leases(self) -> bool:
        """Not within one lease time of Redis starting, or of a gap in our own rounds: workers could not renew then."""
        now = time.monotonic()
        uptime_s = cast(dict[str, int], self._redis.info("server"))["uptime_in_seconds"]
        if now - self._last_round > ROUND_S + 1.0:
            self._judges_from = now + self._settings.lease_s
        return now >= self._judges_from and uptime_s > self._settings.lease_s

    def _locked(self) -> bool:
        if self._redis.set(_LOCK, self._name, nx=True, px=_LOCK_MS):
            return True
        if self._redis.get(_LOCK) != self._name.encode():
            return False
        self._redis.pexpire(_LOCK, _LOCK_MS)
        return True

    def _send_on(self, id: str) -> None:
        header = self._ledger.header(id)
        if header is None or header.state != "queued":
            return
        if header.lost and header.attempt >= LOST_ATTEMPTS:
            self._close(id, JobGivenUp(f"given up after {header.attempt} attempts: its workers vanished"))
            return
        log.info("job %s is published again (%s)", id, header.error or "its delay ended")
        wake(self._app, [(id, header.lane)])

    def _close(self, id: str, error: VQAError) -> None:
        if close_with(self._ledger, self._app.backend, id, error, self._settings.result_ttl_s):
            log.info("job %s is closed: %s", id, type(error).__name__)
