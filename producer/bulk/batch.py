"""The batch's record in Redis, which `vqa status` and other clients read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Self

from producer.client.batches import cancel_batch
from producer.client.client import Client
from producer.client.job_queue import JobQueue
from producer.client.outage import redis_errors
from producer.client.window import Window
from vqa.errors import QueueUnavailable, SettingsError
from vqa.jobs.lane import Lane
from vqa.ledger.batches import Batches
from vqa.redis.connection import connect
from vqa.results import Outcome

#: seconds between two updates of the row counts
_REPORT_INTERVAL_S = 2.0


class BulkClient(Client):
    """The client, with the internals that only bulk submission needs."""

    @property
    def queue(self) -> JobQueue:
        return self._queue

    def rounds(self, window: Window) -> Iterator[list[tuple[str, Outcome]]]:
        """Yield lists of outcomes as they arrive, and an empty list after half a second without one."""
        return self._rounds(window)


class BatchReporter:
    """Reports the progress of this run's batch to Redis.

    Only `start` raises QueueUnavailable; every other report is skipped while Redis is unreachable.
    """

    def __init__(self, batch: str, client: BulkClient) -> None:
        self._batch = batch
        self._client = client
        self._settings = client.settings
        self._redis = connect(client.settings)
        self._batches = Batches(self._redis)
        self._reported = time.monotonic()
        self._started = False
        #: rows that never became jobs, by error code
        self.failed: Counter[str] = Counter()
        #: rows read so far
        self.total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def start(
        self, lane: Lane, tenant: str | None, input: str, expires_s: float | None, *, detached: bool, revived: bool
    ) -> None:
        """Create the batch in Redis, or continue it.

        A `detached` batch keeps its answers until they are collected. Raises SettingsError if the batch was cancelled
        and is not `revived`.
        """
        keep_s = self._settings.batch_ttl_s
        with redis_errors(self._settings):
            self._batches.create(self._batch, lane, tenant, input, expires_s, keep_s, detached, revived)
            state = self._batches.get(self._batch)
        if state is not None and state.status in ("cancelling", "cancelled"):
            raise SettingsError("the batch was cancelled; resume it with --retry-failed, or start over with --restart")
        self._started = True

    def tick(self) -> None:
        """Report the row counts if the last report is old enough."""
        if self._started and time.monotonic() - self._reported >= _REPORT_INTERVAL_S:
            self._reported = time.monotonic()
            with suppress(QueueUnavailable), redis_errors(self._settings):
                self._batches.count(self._batch, self.failed, self.total)

    def expect(self, rows: int) -> None:
        """Report how many rows the whole input has."""
        if self._started:
            with suppress(QueueUnavailable), redis_errors(self._settings):
                self._batches.expect(self._batch, rows)

    def finalize(self) -> None:
        """Report that every row has ended and the output files are being finished."""
        if self._started:
            with suppress(QueueUnavailable), redis_errors(self._settings):
                self._batches.set_status(self._batch, "finalizing")

    def seal(self, ended: tuple[int, Mapping[str, int]] | None = None) -> None:
        """Report that all rows have been read; `ended` is the number of answers, and of failures by code, if known."""
        with suppress(QueueUnavailable), redis_errors(self._settings):
            if ended is None:
                self._batches.count(self._batch, self.failed, self.total)
            done = 0 if ended is None else ended[0] + sum(ended[1].values())
            self._batches.seal(self._batch, max(self.total, done), ended)

    def cancel(self, within_s: float | None = None) -> None:
        """Cancel the open jobs, for at most `within_s` seconds."""
        with suppress(QueueUnavailable):
            cancel_batch(self._client.queue, self._batch, within_s)
