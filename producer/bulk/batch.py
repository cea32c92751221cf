"""The batch in Redis, where others see it: begun, counted, sealed, cancelled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from producer.client.batches import cancel_batch, upload
from producer.client.client import Client
from producer.client.outage import reaching
from producer.client.waiters import Window
from vqa.connection import connect
from vqa.errors import QueueUnavailable, SettingsError
from vqa.job import Job, Lane
from vqa.ledger.batches import Batches
from vqa.results import Outcome


class BulkClient(Client):
    """What every run of the command does its work with."""

    def rounds(self, window: Window) -> Iterator[list[tuple[str, Outcome]]]:
        """See `Client.ask_many`; all that have come at once, and an empty list where nothing did for half a second."""
        return self._rounds(window)

    def forget(self, ids: Iterable[str]) -> None:
        """Delete how jobs ended; nobody can read it after that."""
        self._link.forget(list(ids))

    def upload(self, batch: str, jobs: Iterable[tuple[str, Job]]) -> int:
        """Put the jobs of a batch that was begun, each with its custom_id, on the queue; see `client.batches`."""
        return upload(self._link, batch, jobs)

    def cancel_batch(self, batch: str, within_s: float | None = None) -> int:
        """Let no more rows of it in, and end those that are open; see `client.batches`."""
        return cancel_batch(self._link, batch, within_s)


#: between two tellings of how many rows there are
_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What is said of a batch when it begins."""

    lane: Lane
    tenant: str | None
    input: str
    #: seconds from now until what is open ends
    expires_s: float | None
    #: whether its answers are kept for whoever collects it
    detached: bool = False


class Register:
    """What this run says of its batch. A Redis that is away is told later: only `begin` raises QueueUnavailable."""

    def __init__(self, batch: str, client: BulkClient) -> None:
        self._batch = batch
        self._client = client
        self._settings = client.settings
        self._redis = connect(client.settings)
        self._batches = Batches(self._redis)
        self._told = time.monotonic()
        #: rows that never became jobs, by code
        self.failed: Counter[str] = Counter()
        #: rows read
        self.total = 0
        self.begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def begin(self, terms: Terms, revived: bool = False) -> None:
        """Let it be known. Raises SettingsError where it was cancelled, unless it is `revived`."""
        keep_s = self._settings.batch_ttl_s
        with reaching(self._settings):
            self._batches.create(
                self._batch,
                terms.lane,
                terms.tenant,
                terms.input,
                terms.expires_s,
                keep_s,
                terms.detached,
                revived,
            )
            state = self._batches.get(self._batch)
        if state is not None and state.status in ("cancelling", "cancelled"):
            raise SettingsError("the batch was cancelled; --retry-failed sends again what was, --restart begins anew")
        self.begun = True

    def tick(self) -> None:
        """Say how many rows there are, now and then."""
        if self.begun and time.monotonic() - self._told >= _EVERY_S:
            self._told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        with suppress(QueueUnavailable), reaching(self._settings):
            self._batches.count(self._batch, self.failed, self.total)

    def finalize(self) -> None:
        """Say that every row has ended, and what is written of them is being put in order."""
        if self.begun:
            with suppress(QueueUnavailable), reaching(self._settings):
                self._batches.set_status(self._batch, "finalizing")

    def seal(self, ended: tuple[int, Mapping[str, int]] | None = None) -> None:
        """Say that all rows have been read, and how they ended where that is known."""
        with suppress(QueueUnavailable), reaching(self._settings):
            if ended is None:
                self._batches.count(self._batch, self.failed, self.total)
            done = 0 if ended is None else ended[0] + sum(ended[1].values())
            self._batches.seal(self._batch, max(self.total, done), ended)

    def cancel(self, within_s: float | None = None) -> None:
        """End what is open, as far as that goes in `within_s`."""
        with suppress(QueueUnavailable):
            self._client.cancel_batch(self._batch, within_s)
