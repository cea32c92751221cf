"""The leases of this worker: one thread renews all of them in one call, and drops those that were lost.

Until the next renewal is due, the thread listens for ids that were closed elsewhere (cancelled, overdue). It runs until
the process ends, also during a drain.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from vqa.ledger.ledger import DROPPED, Ledger
from vqa.ledger.records import Lease
from vqa.redis.error_replies import describe
from workers.jobs.served import Served

log = logging.getLogger(__name__)


class Leases:
    """The leases that this worker holds, by job id."""

    def __init__(
        self,
        redis: Redis,
        worker: str,
        lease_s: float,
        about: Mapping[str, Any],
        figures: Callable[[], Mapping[str, Any]] = dict,
        served: Served | None = None,
    ) -> None:
        """`about` is shown in the list of workers, and what `figures` returns at each renewal."""
        self._redis = redis
        self._ledger = Ledger(redis)
        self._worker = worker
        self._lease_s = lease_s
        self._served = served or Served()
        self._about = {**about, **self._served.about()}
        self._figures = figures
        self._retry_s = min(1.0, lease_s / 3)
        #: renewals of all leases together, and leases lost to another worker or a close, for metrics
        self.renewals = self.lost = 0
        self._held: dict[str, Lease] = {}
        #: tokens of those whose jobs this worker closes or returns
        self._ending: set[str] = set()
        self._lock = threading.Lock()
        self._draining = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._on_lost: Callable[[str], None] = lambda id: None
        self._engine_alive: Callable[[], bool] = lambda: True

    def start(self, on_lost: Callable[[str], None], engine_alive: Callable[[], bool] = lambda: True) -> None:
        """Start to renew, except while `engine_alive` is false. `on_lost` is called with the id of each lost job."""
        self._on_lost, self._engine_alive = on_lost, engine_alive
        self._thread.start()

    def drain(self) -> None:
        """Say no more that this worker serves its models: their canaries get no jobs that nobody would take."""
        self._draining = True

    def stop(self) -> None:
        """Stop renewing, and remove this worker from the list of workers."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._lease_s)
        try:
            self._ledger.forget_worker(self._worker)
        except RedisError as error:
            log.warning("could not remove this worker from the list of workers: %s", describe(error))

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[None]:
        """Renew this lease while the block runs."""
        with self._lock:
            before = self._held.get(lease.id)
            self._held[lease.id] = lease
        if before is not None:
            # this worker had lost the job, and took it again before it noticed
            self._on_lost(lease.id)
        try:
            yield
        finally:
            with self._lock:
                self._ending.discard(lease.token)
                if self._held.get(lease.id) is lease:
                    del self._held[lease.id]

    def end(self, lease: Lease) -> None:
        """Let a renewal that comes after this worker's own close or return not take the job for lost.

        Call it before; if Redis refuses the close or return, call `lose`.
        """
        if self.holds(lease):
            self._ending.add(lease.token)

    def holds(self, lease: Lease) -> bool:
        """Return whether this worker still holds the lease, as far as it knows."""
        return self._held.get(lease.id) is lease

    def __len__(self) -> int:
        # no lock: called from a signal handler
        return len(self._held)

    def held(self) -> list[Lease]:
        with self._lock:
            return list(self._held.values())

    def _run(self) -> None:
        pubsub: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)
        due = time.monotonic()
        while not self._stopping.is_set():
            try:
                if not pubsub.subscribed:
                    pubsub.subscribe(DROPPED)
                if time.monotonic() >= due:
                    alive = self._engine_alive()
                    due = time.monotonic() + (self._lease_s / 3 if alive else self._retry_s)
                    if alive:
                        self._renew()
                self._listen(pubsub, due)
            except RedisError as error:
                log.warning("leases are not renewed: %s; trying again", describe(error))
                self._pause(pubsub)
            except Exception:
                # never end this thread: without renewals the worker loses every job it holds
                log.exception("leases are not renewed; trying again")
                self._pause(pubsub)
        pubsub.close()

    def _pause(self, pubsub: PubSub) -> None:
        pubsub.reset()
        self._stopping.wait(self._retry_s)

    def _renew(self) -> None:
        leases = self.held()
        held, about = [(each.id, each.token) for each in leases], {**self._about, **self._figures()}
        served = (() if self._draining else self._served.names, self._served.declared)
        lost = self._ledger.renew(self._worker, held, self._lease_s, about, *served)
        self.renewals += 1
        for lease in leases:
            if lease.id in lost:
                self._drop(lease)

    def _listen(self, pubsub: PubSub, until: float) -> None:
        message = pubsub.get_message(timeout=min(0.2, max(0.0, until - time.monotonic())))
        if message and message["type"] == "message":
            lease = self._held.get(message["data"].decode("utf-8", "replace"))
            if lease is not None:
                self._drop(lease)

    def lose(self, lease: Lease) -> bool:
        """Count a held job as lost, and hold it no longer. Return whether it was held."""
        with self._lock:
            if self._held.get(lease.id) is not lease:
                return False
            del self._held[lease.id]
            self.lost += 1
        return True

    def _drop(self, lease: Lease) -> None:
        # what this worker ends itself, its attempt knows better
        if lease.token in self._ending or not self.lose(lease):
            return
        log.info("job %s is no longer this worker's: closed, or taken by another worker", lease.id)
        self._on_lost(lease.id)
