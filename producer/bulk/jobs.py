"""Rows of the input on their way to the queue: those without a line yet, as jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from producer.bulk.batch import BulkClient, Register
from producer.bulk.image_loader import ImageLoader, Seen, Todo
from producer.bulk.output.formats import Failure
from producer.bulk.output.writer import Book
from producer.bulk.plan import Plan
from producer.client.batches import job_id
from producer.client.submission import Ready
from producer.inputs import BadRow, Row, image_sources, read_rows
from vqa.errors import ImageMissing, InvalidJob, VQAError
from vqa.job import Job
from vqa.ledger.batches import EXPIRED_CODE

#: a job needs some time
_SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that is open, as its line will need it."""

    custom_id: str
    number: int
    #: whether its deadline is the batch's own end
    cut: bool


def todos(plan: Plan, book: Book, register: Register) -> Iterator[Todo | BadRow]:
    """The rows that have no line yet, and all that are bad."""
    for row in read_rows(plan.source):
        register.total += 1
        if isinstance(row, BadRow):
            yield row
            continue
        id = job_id(book.batch, row.digest())
        if not book.done.meet(id):
            yield Todo(id, row)


class Making:
    """One run's way from rows to jobs; what never becomes a job gets its line here."""

    def __init__(
        self, plan: Plan, client: BulkClient, book: Book, register: Register, images: ImageLoader, end: float | None
    ) -> None:
        self._plan = plan
        self._client = client
        self._book = book
        self._register = register
        self._images = images
        #: seconds since 1970
        self._end = end
        #: jobs by id
        self.open: dict[str, Asked] = {}

    def rows(self) -> Iterator[Todo]:
        """The rows to be sent; those that are bad are told and written."""
        for row in todos(self._plan, self._book, self._register):
            if isinstance(row, Todo):
                yield row
            else:
                self._bad(row)

    def _bad(self, row: BadRow) -> None:
        tell(row.number, row.error)
        # so that it is known again, and not when it has been mended
        id = job_id(self._book.batch, f"bad {row.number} {row.custom_id} {row.error.code()} {row.error}")
        if not self._book.done.meet(id):
            self._fail(id, row.custom_id, Failure(row.error.code(), str(row.error), row.number, bad_row=True))

    def _fail(self, id: str, custom_id: str | None, failure: Failure) -> None:
        self._book.failed(id, custom_id, failure)
        self._register.failed[failure.code] += 1

    def jobs(self, rows: Iterable[Todo]) -> Iterator[Job]:
        """The jobs, each as it is asked for."""
        for seen in self._images.seen(rows):
            row, id = seen.todo.row, seen.todo.id
            try:
                job = self._job(seen)
            except VQAError as error:
                tell(row.number, error)
                self._fail(id, row.custom_id, Failure(error.code(), str(error), row.number, bad_row=True))
                continue
            if job is None:
                why = "the batch's own time was over before the row was sent"
                self._fail(id, row.custom_id, Failure(EXPIRED_CODE, why, row.number))
            else:
                self._send_anew(id)
                yield job

    def _job(self, seen: Seen) -> Job | None:
        if seen.error is not None:
            raise seen.error
        row, id = seen.todo.row, seen.todo.id
        self._check_store(row)
        more = {name: value for name, value in self._plan.delivery.items() if name not in row.fields}
        timeout_s = self._timeout_s({**more, **row.fields})
        left_s = float("inf") if self._end is None else self._end - time.time()
        if left_s < _SHORTEST_S:
            return None
        cut = left_s < timeout_s
        if cut:
            more["timeout_s"] = left_s
        names = {source: image.reference for source, image in seen.images.items()}
        job = row.job(id, names, batch=self._book.batch, **more)
        self.open[id] = Asked(row.custom_id, row.number, cut)
        return job if not names else Ready.of(job, {image.reference: image.data for image in seen.images.values()})

    def _timeout_s(self, fields: Mapping[str, Any]) -> float:
        return float(fields.get("timeout_s") or self._client.settings.timeout_s(fields.get("lane", "interactive")))

    def _check_store(self, row: Row) -> None:
        stored = [source for source in image_sources(row) if source.startswith("sha256:")]
        if stored and None in self._client.image_sizes(stored).values():
            raise ImageMissing("an image that the row names is not, or no longer, in the image store")

    def _send_anew(self, id: str) -> None:
        # as a dead letter it has its past; what else is known of it would be taken for its outcome
        if self._book.again.meet(id) and self._client.retry_dead([id])[id] == "unknown":
            self._client.forget([id])


def bad_rows(plan: Plan, book: Book, register: Register, reader: ImageLoader) -> int:
    """Read everything and send nothing; how many rows are no jobs, each of which is told. Raises SettingsError."""
    count = 0

    def good() -> Iterator[Todo]:
        nonlocal count
        for row in todos(plan, book, register):
            if isinstance(row, Todo):
                yield row
            else:
                count += 1
                tell(row.number, row.error)

    for seen in reader.seen(good()):
        if (error := seen.error or _unmade(seen)) is not None:
            count += 1
            tell(seen.todo.row.number, error)
    register.total = 0
    return count


def _unmade(seen: Seen) -> InvalidJob | None:
    try:
        seen.todo.row.job(seen.todo.id, {source: image.reference for source, image in seen.images.items()})
    except InvalidJob as error:
        return error
    return None


def tell(number: int, error: VQAError) -> None:
    """Say why a row is none."""
    print(f"vqa: line {number}: {type(error).__name__}: {error}", file=sys.stderr)
