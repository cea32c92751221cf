"""From input rows to jobs: rows that have a result are skipped, and invalid ones are reported and written to ERR."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from producer.arrivals import arriving_singly
from producer.bulk.batch import BatchReporter, BulkClient
from producer.bulk.image_loader import ImageLoader, LoadedRow, PendingRow
from producer.bulk.neighbours import neighbours
from producer.bulk.output.formats import Failure
from producer.bulk.output.review import Shown
from producer.bulk.output.writer import ResultWriter
from producer.bulk.plan import Plan
from producer.client.batches import job_id
from producer.client.submission import CHUNK_WAIT_S, PreparedJob
from producer.images.reader import is_named
from producer.inputs import BadRow, Row, image_sources, read_rows
from vqa.errors import BadImage, ImageMissing, ImageUnavailable, InvalidJob, VQAError
from vqa.images.stored_id import is_stored_id
from vqa.jobs.job import Job
from vqa.ledger.batch_state import EXPIRED_CODE

#: with less time left than this, a row expires instead of becoming a job
_MIN_TIMEOUT_S = 0.001

#: images of a row that an error names
_NAMED = 5


@dataclass(frozen=True, slots=True)
class OpenRow:
    """What the result line of an open job needs."""

    custom_id: str
    #: line of the input, from 1
    number: int
    #: whether the job's deadline is the batch's own
    ends_with_batch: bool
    #: what people need to check the answer; None if nobody does
    shown: Shown | None = None


class JobBuilder:
    """Builds the jobs of one run."""

    def __init__(
        self, plan: Plan, client: BulkClient, writer: ResultWriter, reporter: BatchReporter, images: ImageLoader
    ) -> None:
        self._plan = plan
        self._client = client
        self._writer = writer
        self._reporter = reporter
        self._images = images
        #: when the batch expires, in seconds since 1970
        self.deadline: float | None = None
        #: rows whose jobs are open, by job id
        self.open: dict[str, OpenRow] = {}
        #: lines that were read as part of rows that cannot be read
        self._swallowed = 0
        #: rows without a line, because an image could not be fetched for the moment
        self.unavailable = 0

    def _unfinished(self) -> Iterator[PendingRow | BadRow | None]:
        """Yield the rows without a result, and None while a pipe has none."""
        rows = read_rows(self._plan.source)
        for row in arriving_singly(rows, CHUNK_WAIT_S) if self._plan.piped else rows:
            if row is None:
                yield None
                continue
            self._reporter.total += 1
            if isinstance(row, BadRow):
                yield row
                continue
            id = job_id(self._writer.batch, row.digest())
            if not self._writer.finished.mark_seen(id):
                yield PendingRow(id, row)

    def pending_rows(self) -> Iterator[PendingRow | None]:
        """Read the input; yield the rows to send, and write failures for the invalid ones.

        Yields None while a pipe has no row.
        """
        for row in self._unfinished():
            if not isinstance(row, BadRow):
                yield row
                continue
            _report(row.number, row.error)
            self._swallowed += row.swallowed
            # the id contains the error: the same error is not written twice, and a corrected row gets another id
            id = job_id(self._writer.batch, f"bad {row.number} {row.custom_id} {row.error.code()} {row.error}")
            if not self._writer.finished.mark_seen(id):
                self._fail(id, row.custom_id, Failure(row.error.code(), str(row.error), row.number, bad_row=True))

    def count_bad_rows(self) -> int:
        """Read the whole input and its images without sending anything; report and count the invalid rows.

        Raises SettingsError if an input cannot be read.
        """
        count = 0

        def valid() -> Iterator[PendingRow]:
            nonlocal count
            for row in self._unfinished():
                if isinstance(row, PendingRow):
                    yield row
                elif row is not None:
                    count += 1
                    _report(row.number, row.error)

        for loaded in self._images.load(valid(), checks=True):
            if (error := loaded.error or self._job_error(loaded) or _partial(loaded)) is not None:
                count += 1
                _report(loaded.row.number, error)
        self._reporter.total = 0
        return count

    def left_out(self) -> Iterator[str]:
        """Say which lines of the input were not asked about."""
        if self._swallowed:
            yield f"{self._swallowed:,} lines were not asked about: they were read as parts of rows that are not CSV"

    def build(self, rows: Iterable[PendingRow | None]) -> Iterator[PreparedJob | None]:
        """Yield the rows' jobs on demand; rows that cannot become one are reported and written as failures."""
        if not self._plan.piped:
            yield from self._jobs(neighbours(filter(None, rows)))
            return
        # a pipe's rows are sent as they come
        for row in rows:
            if row is None:
                yield None
            else:
                yield from self._jobs([row])

    def _jobs(self, rows: Iterable[PendingRow]) -> Iterator[PreparedJob]:
        for loaded in self._images.load(rows):
            row, id = loaded.row, loaded.id
            try:
                job = self._job(loaded)
            except ImageUnavailable as error:
                _report(row.number, error)
                self._set_aside(id, row, error)
                continue
            except VQAError as error:
                _report(row.number, error)
                self._fail(id, row.custom_id, Failure(error.code(), str(error), row.number, bad_row=True))
                continue
            if job is None:
                why = "the batch expired before the row was sent"
                self._fail(id, row.custom_id, Failure(EXPIRED_CODE, why, row.number))
            else:
                self._clear_last_run(id)
                yield job

    def _set_aside(self, id: str, row: Row, error: ImageUnavailable) -> None:
        """Leave the row to the next run, which sends rows without a line; write a failure if there cannot be one."""
        if self._writer.resumable:
            self.unavailable += 1
        else:
            self._fail(id, row.custom_id, Failure(error.code(), str(error), row.number, bad_row=True))

    def _fail(self, id: str, custom_id: str | None, failure: Failure) -> None:
        self._writer.write_failure(id, custom_id, failure)
        self._reporter.failed[failure.code] += 1

    def _job(self, loaded: LoadedRow) -> PreparedJob | None:
        """Build the job; return None if the batch has expired."""
        if loaded.error is not None:
            raise loaded.error
        row, id = loaded.row, loaded.id
        stored = self._stored_images(row)
        extra = {name: value for name, value in self._plan.delivery.items() if name not in row.fields}
        timeout_s = self._timeout_s({**extra, **row.fields})
        left_s = float("inf") if self.deadline is None else self.deadline - time.time()
        if left_s < _MIN_TIMEOUT_S:
            return None
        if (model := self._model(row)) is not None:
            extra["model"] = model
        ends_with_batch = left_s < timeout_s
        if ends_with_batch:
            extra["timeout_s"] = left_s
        job = row.job(id, {**loaded.references, **stored}, batch=self._writer.batch, **extra)
        shown = None
        if self._plan.review:
            _require_probabilities(job)
            shown = Shown.from_row(row, loaded.references)
        self.open[id] = OpenRow(row.custom_id, row.number, ends_with_batch, shown)
        return PreparedJob(job, {image.reference: image.data for image in loaded.images.values()})

    def _model(self, row: Row) -> str | None:
        """Return the model that the row names. Raises ModelNotFound if no worker serves it."""
        if (name := row.fields.get("model")) is None and (name := row.named) is None:
            return None
        with self._client.queue.redis_errors():
            return self._client.queue.models.named(name, counts="model" in row.fields)

    def _job_error(self, loaded: LoadedRow) -> InvalidJob | None:
        try:
            self._model(loaded.row)
            job = loaded.row.job(loaded.id, loaded.references)
            if self._plan.review:
                _require_probabilities(job)
        except InvalidJob as error:
            return error
        return None

    def _timeout_s(self, fields: Mapping[str, Any]) -> float:
        return float(fields.get("timeout_s") or self._client.settings.timeout_s(fields.get("lane", "interactive")))

    def _stored_images(self, row: Row) -> dict[str, str]:
        """Return the references of the stored images that the row names. Raises ImageMissing."""
        named = [source for source in image_sources(row) if is_named(source)]
        stored = self._client.images.references(filter(is_stored_id, named))
        if named and None in self._client.image_sizes([stored.get(name, name) for name in named]).values():
            raise ImageMissing("an image that the row references is not in the image store; submit it as a file")
        return stored

    def _clear_last_run(self, id: str) -> None:
        # a dead letter is retried and keeps its history; any other old outcome would be taken for the new one
        if self._writer.retrying.mark_seen(id) and self._client.dead_letters.retry([id])[id] == "unknown":
            self._client.queue.forget([id])


def _require_probabilities(job: Job) -> None:
    """Raise InvalidJob if the answer will not tell how probable each choice is."""
    if not job.scored_choices:
        raise InvalidJob("response_format: --review-below needs choices with probabilities")


def _partial(loaded: LoadedRow) -> BadImage | None:
    names = loaded.parts_unseen()
    return BadImage(f"only a part would be asked about: {', '.join(names[:_NAMED])}; split it") if names else None


def _report(number: int, error: VQAError) -> None:
    print(f"vqa: line {number}: {type(error).__name__}: {error}", file=sys.stderr)
