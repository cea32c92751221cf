"""The client of `vqa submit`: a `Client` that also takes outcomes in lists, forgets them, and sends whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from producer.client.batches import cancel_batch, upload
from producer.client.client import Client
from producer.client.waiters import Window
from vqa.job import Job
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
