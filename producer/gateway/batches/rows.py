"""Lines of a checked input as jobs. For threads; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from producer.client.batches import job_id
from producer.client.submission import PreparedJob
from producer.gateway.batches.lines import Line
from producer.gateway.batches.record import BatchRecord
from producer.gateway.batches.validation import decode_line
from producer.gateway.chat.echo_models import is_test_model
from producer.gateway.chat.job_builder import JobBuilder, stored_or_inline
from producer.gateway.errors import RequestError
from producer.inputs.row import require_id
from producer.openai.chat_request import parse_row
from vqa.errors import InvalidJob, VQAError
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row with its job, or with why it has none."""

    #: the job's id, the same whenever and wherever the row is read
    id: str
    custom_id: str
    job: PreparedJob | None = None
    #: the test model that answers it; None for the workers
    test_model: str | None = None
    error: VQAError | None = None


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the rows of one batch."""

    batch: BatchRecord
    settings: GatewaySettings
    queue_settings: QueueSettings

    def read(self, page: Sequence[Line], first: int, left_s: float) -> list[BatchRow]:
        """Return the rows of a page whose first row has number `first`; their jobs end in `left_s` seconds."""
        return list(self._rows(page, first, left_s))

    def _rows(self, page: Sequence[Line], first: int, left_s: float) -> Iterator[BatchRow]:
        for number, line in enumerate(page, start=first):
            row = BatchRow(job_id(self.batch.id, f"row {number}"), "")
            try:
                document = decode_line(line)
                row = replace(row, custom_id=require_id(document.get("custom_id"), "custom_id"))
                request = parse_row(document, stored_or_inline(self.batch.tenant))
                is_test = is_test_model(request.model, self.settings)
                own = {"lane": self.batch.lane, "batch": self.batch.id, "timeout_s": left_s}
                builder = JobBuilder(row.id, self.batch.tenant, self.batch.trace, self.queue_settings)
                job = builder.from_request(replace(request, fields={**request.fields, **own})).prepared
                yield replace(row, job=job, test_model=request.model if is_test else None)
            except RequestError as error:
                # outcomes are read by programs that do not have the gateway's classes
                yield replace(row, error=InvalidJob(str(error)))
            except VQAError as error:
                yield replace(row, error=error)
