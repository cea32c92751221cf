"""`client.batches`, `client.dead_letters` and `client.images`, and the method names that they replace."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError

from producer.client.batch_submission import BatchSubmission, RowLike
from producer.client.batches import Answers, Batch
from producer.client.capacity import memory_full
from producer.client.dead_letters import DeadLetter, TimeOrAge, Verdict
from producer.client.job_queue import JobQueue
from producer.images.stored import StoredImage, read, remove, resolve, store
from producer.prediction import Prediction, predict
from vqa.errors import QueueFull
from vqa.images.source import read_image
from vqa.images.stores.contents import StoreFull
from vqa.jobs.fields import ImageSource
from vqa.jobs.lane import Lane
from vqa.jobs.message import is_url
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import Batches

#: seconds that an image stored by a client is kept
STORED_TTL_S = 86_400


def _warn(old: str, new: str) -> None:
    warnings.warn(f"client.{old} is deprecated; use client.{new}", DeprecationWarning, stacklevel=3)


class DeprecatedCall:
    """Makes the former methods `client.batches(...)` and `client.dead_letters(...)` work, which list."""

    _name: str

    if not TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            _warn(f"{self._name}()", f"{self._name}.list()")
            return self.list(*args, **kwargs)


_RENAMED = {
    "submit_batch": "batches.create",
    "batch": "batches.retrieve",
    "dead_letter": "dead_letters.get",
    "count_dead": "dead_letters.count",
    "retry_dead": "dead_letters.retry",
    "purge_dead": "dead_letters.purge",
    "picture_sizes": "image_sizes",
}


class DeprecatedMethods:
    """The clients' former method names, for one release."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in _RENAMED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _warn(name, _RENAMED[name])
            return operator.attrgetter(_RENAMED[name])(self)


class BatchesResource(DeprecatedCall):
    """`client.batches`: rows submitted together, which are answered even if this client ends."""

    _name = "batches"

    def __init__(self, queue: JobQueue, answers: Answers) -> None:
        self._queue = queue
        self._answers = answers

    def create(
        self,
        rows: Iterable[RowLike],
        *,
        lane: Lane = "bulk",
        tenant: str | None = None,
        input: str = "",
        within_s: float | None = None,
        **defaults: Any,
    ) -> Batch:
        """Put all rows on the queue as one batch.

        A row is a Job, or a mapping with "id", "question" and "image" (or "messages") and any other fields of a job;
        `defaults` are fields for rows that lack them. Rows still open after `within_s` expire. Raises QueueFull,
        InvalidJob or BadImage; then no row is left on the queue.
        """
        return self.retrieve(BatchSubmission(lane, tenant, input, within_s).send(self._queue, rows, defaults))

    def retrieve(self, id: str) -> Batch:
        """Return a handle to any client's batch; no I/O."""
        return Batch(id, self._queue, self._answers)

    def cancel(self, id: str) -> int:
        return self.retrieve(id).cancel()

    def list(self, limit: int = 100) -> list[BatchState]:
        """Return the newest batches."""
        with self._queue.redis_errors():
            return Batches(self._queue.redis).newest(limit)

    def predict(self, states: Sequence[BatchState]) -> dict[str, Prediction]:
        """Return when batches end, as far as the last minutes tell, by id; none of those over or being cancelled."""
        with self._queue.redis_errors():
            return predict(self._queue.redis, states, self._queue.settings.lease_s)


class DeadLettersResource(DeprecatedCall):
    """`client.dead_letters`: jobs that were given up, and messages that were not jobs."""

    _name = "dead_letters"

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def get(self, id: str) -> DeadLetter | None:
        """Return a dead letter, or None if no dead letter has that id."""
        with self._queue.dead_letters() as dead:
            return dead.read([id]).get(id)

    def count(self) -> int:
        """Count the dead letters."""
        with self._queue.dead_letters() as dead:
            return dead.count(self._queue.settings.dead_ttl_s)

    def retry(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Reopen dead letters as jobs: same id and history, new timeout, attempts from 0. Return each id's result.

        Deletes their old outcomes, so `client.answer` waits for the new ones.
        """
        with self._queue.dead_letters() as dead:
            return dead.retry(ids)

    def purge(self, ids: Iterable[str]) -> int:
        """Delete dead letters and return how many existed. Their outcomes are kept until they expire."""
        with self._queue.dead_letters() as dead:
            return dead.purge(ids)

    def list(
        self,
        reason: str | None = None,
        since: TimeOrAge | None = None,
        before: TimeOrAge | None = None,
        limit: int | None = 100,
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; `limit=None` returns all.

        `since` and `before` are points in time, or ages by Redis's clock as timedeltas.
        """
        with self._queue.dead_letters() as dead:
            return dead.newest(reason, since, before, limit)


class ImagesResource:
    """`client.images`: images that are sent once and then named by their `img_` ids."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def upload(self, image: ImageSource, *, ttl_s: int = STORED_TTL_S, tenant: str | None = None) -> StoredImage:
        """Store an image for `ttl_s` seconds; its id can be given wherever an image can.

        Over HTTP only the tenant's callers can use it. Raises BadImage, and QueueFull if Redis or the folder of images
        is full.
        """
        data, settings = self._content(image), self._queue.settings
        stored = StoredImage.describe(data, tenant, ttl_s, settings.image_limits)
        with self._queue.redis_errors():
            try:
                store(self._queue.redis, self._queue.images, stored, data)
            except OutOfMemoryError:
                raise memory_full() from None
            except StoreFull as error:
                raise QueueFull(str(error)) from None
        return stored

    def check(self, image: ImageSource) -> None:
        """Raise BadImage for a path that VQA_FETCH_ROOTS does not allow, where it is set, or a URL that may not be."""
        reader = self._queue.reader
        if isinstance(image, str) and is_url(image):
            reader.check(image)
        else:
            reader.check_source(image)

    def _content(self, image: ImageSource) -> bytes:
        reader = self._queue.reader
        self.check(image)
        return reader.read(image) if isinstance(image, str) and is_url(image) else read_image(image)

    def retrieve(self, id: str) -> StoredImage:
        """Return the description of a stored image. Raises ImageMissing."""
        with self._queue.redis_errors():
            return read(self._queue.redis, id)

    def delete(self, id: str) -> bool:
        """Forget the id; return False if it is unknown. The bytes go after the last job that uses them."""
        with self._queue.redis_errors():
            return remove(self._queue.redis, id)

    def references(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the images' references into the image store. Raises ImageMissing, naming the id."""
        with self._queue.redis_errors():
            return resolve(self._queue.redis, ids)
