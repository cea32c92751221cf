"""Lines of a checked input as jobs. For threads; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from producer.client.batches import job_id
from producer.client.submission import PreparedJob
from producer.gateway.batches.lines import Line
from producer.gateway.batches.record import BatchRecord
from producer.gateway.batches.validation import decode_line
from producer.gateway.caller_images import CallerImages
from producer.gateway.chat.echo_models import is_test_model
from producer.gateway.chat.job_builder import JobBuilder
from producer.gateway.errors import RequestError
from producer.images.parts import Use
from producer.inputs.row import require_id
from producer.openai.chat_request import ChatRequest, parse_row
from vqa.errors import BadImage, ImageUnavailable, InvalidJob, VQAError
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings
from vqa.tracing.active import active

#: images that are fetched before their rows are submitted, all of which are in memory at once
_MOST_FETCHED = 8


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row with its job, or with why it has none."""

    #: the job's id, the same whenever and wherever the row is read
    id: str
    custom_id: str
    job: PreparedJob | None = None
    #: the test model that answers it; None for the workers
    test_model: str | None = None
    #: as the row names it, unless it is a test model
    model: str | None = None
    error: VQAError | None = None


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row as the input has it; its images are not there yet."""

    line: Line
    row: BatchRow
    #: None if the row is wrong
    request: ChatRequest | None = None
    #: URLs to fetch, and how each is shown
    urls: Mapping[str, Use] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the rows of one batch."""

    batch: BatchRecord
    settings: GatewaySettings
    queue_settings: QueueSettings
    images: CallerImages

    def read(self, page: Sequence[Line], first: int) -> list[list[ReadRow]]:
        """Return the rows of a page whose first row has number `first`, in groups of few images to fetch."""
        groups: list[list[ReadRow]] = [[]]
        urls: set[str] = set()
        for number, line in enumerate(page, start=first):
            found = self._read(number, line)
            if groups[-1] and found.urls and len(urls | found.urls.keys()) > _MOST_FETCHED:
                groups.append([])
                urls = set()
            groups[-1].append(found)
            urls |= found.urls.keys()
        return groups

    def _read(self, number: int, line: Line) -> ReadRow:
        row = BatchRow(job_id(self.batch.id, f"row {number}"), "")
        try:
            document = decode_line(line)
            row = replace(row, custom_id=require_id(document.get("custom_id"), "custom_id"))
            builder = self._builder(row)
            request = parse_row(document, builder.resolve)
            test_model = request.model if is_test_model(request.model, self.settings) else None
            row = replace(row, test_model=test_model, model=None if test_model else request.model)
            return ReadRow(line, row, request, builder.urls(request))
        except VQAError as error:
            return ReadRow(line, replace(row, error=_lasting(error)))

    def build(
        self, group: Sequence[ReadRow], left_s: float, images: Mapping[str, bytes | BadImage | ImageUnavailable]
    ) -> list[BatchRow]:
        """Return the rows with their jobs, which end in `left_s` seconds; `images` are those at the URLs."""
        return [self._build(found, left_s, images) for found in group]

    def _build(
        self, found: ReadRow, left_s: float, images: Mapping[str, bytes | BadImage | ImageUnavailable]
    ) -> BatchRow:
        if found.request is None:
            return found.row
        fetched: dict[str, bytes] = {}
        for url in found.urls:
            image = images[url]
            if isinstance(image, VQAError):
                return replace(found.row, error=image)
            fetched[url] = image
        own = {"lane": self.batch.lane, "batch": self.batch.id, "timeout_s": left_s}
        request = replace(found.request, fields={**found.request.fields, **own})
        try:
            return replace(found.row, job=self._builder(found.row).from_request(request, fetched).prepared)
        except VQAError as error:
            return replace(found.row, error=_lasting(error))

    def _builder(self, row: BatchRow) -> JobBuilder:
        # each row has a trace of its own, or the batch's would have a million spans
        trace = None if active() else self.batch.trace
        return JobBuilder(row.id, self.batch.tenant, trace, self.queue_settings, self.images)


def _lasting(error: VQAError) -> VQAError:
    # outcomes are read by programs that do not have the gateway's classes
    return InvalidJob(str(error)) if isinstance(error, RequestError) else error
