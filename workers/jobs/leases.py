"""The leases of this worker: renews all that it holds in one call, and drops what it lost.

One thread does both: it listens for ids that were closed elsewhere (cancelled, past their deadline) until the next
renewal is due. It runs until the process ends, also while the worker drains.
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

log = logging.getLogger(__name__)


class Leases:
    """What this worker holds, by job id."""

    def __init__(self, redis: Redis, worker: str, lease_s: float, about: Mapping[str, Any]) -> None:
        self._redis = redis
        self._ledger = Ledger(redis)
        self._worker = worker
        self._lease_s = lease_s
        self._about = about
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._on_lost: Callable[[str], None] = lambda id: None
        self._beats: Callable[[], bool] = lambda: True

    def start(self, on_lost: Callable[[str], None], beats: Callable[[], bool] = lambda: True) -> None:
        """Begin to renew, as long as `beats` says that the engine lives.

        `on_lost` is told each id that is no longer this worker's.
        """
        self._on_lost, self._beats = on_lost, beats
        self._thread.start()

    def stop(self) -> None:
        """Renew no more, and take this worker off the list of living ones."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._lease_s)
        try:
            self._ledger.leave(self._worker)
        except RedisError as error:
            log.warning("could not sign off: %s", type(error).__name__)

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[None]:
        """Renew this lease for as long as the block runs."""
        with self._lock:
            before = self._held.get(lease.id)
            self._held[lease.id] = lease
        if before is not None:
            # this worker had lost it, and has got it again before it heard of that
            self._on_lost(lease.id)
        try:
            yield
        finally:
            with self._lock:
                if self._held.get(lease.id) is lease:
                    del self._held[lease.id]

    def holds(self, lease: Lease) -> bool:
        """Whether the lease is, as far as this worker has heard, still its own."""
        return self._held.get(lease.id) is lease

    def __len__(self) -> int:
        # a signal's handler asks: no lock
        return len(self._held)

    def held(self) -> list[Lease]:
        """All that is held now."""
        with self._lock:
            return list(self._held.values())

    def _run(self) -> None:
        pubsub: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        due = time.monotonic()
        while not self._stopping.is_set():
            try:
                if not pubsub.subscribed:
                    pubsub.subscribe(DROPPED)
                if time.monotonic() >= due:
                    due = time.monotonic() + self._lease_s / 3
                    if self._beats():
                        self._renew()
                self._listen(pubsub, due)
            except RedisError as error:
                log.warning("leases are not renewed: %s; trying again", type(error).__name__)
                self._pause(pubsub)
            except Exception:
                # whatever it is, a worker that renews no more loses every job it holds
                log.exception("leases are not renewed; trying again")
                self._pause(pubsub)
        pubsub.close()

    def _pause(self, pubsub: PubSub) -> None:
        pubsub.reset()
        self._stopping.wait(min(1.0, self._lease_s / 3))

    def _renew(self) -> None:
        leases = self.held()
        lost = self._ledger.renew(self._worker, [(each.id, each.token) for each in leases], self._lease_s, self._about)
        for lease in leases:
            # one that ended while the call was on its way is lost to nobody
            if lease.id in lost:
                self._drop(lease)

    def _listen(self, pubsub: PubSub, until: float) -> None:
        message = pubsub.get_message(timeout=min(0.2, max(0.0, until - time.monotonic())))
        if message and message["type"] == "message":
            lease = self._held.get(message["data"].decode())
            if lease is not None:
                self._drop(lease)

    def _drop(self, lease: Lease) -> None:
        with self._lock:
            if self._held.get(lease.id) is not lease:
                return
            del self._held[lease.id]
        log.info("job %s is no longer this worker's", lease.id)
        self._on_lost(lease.id)
