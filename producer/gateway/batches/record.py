"""The gateway's record of a batch, beside the ledger's counts: the request, and how far its input has been read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from producer.gateway.access.caller import Allowance, Caller
from vqa.jobs.lane import Lane

PREFIX = "batch"


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """The request for a batch; it never changes."""

    id: str
    endpoint: str
    input_file_id: str
    #: name of the input file, for lists of batches
    filename: str
    completion_window: str
    #: the same in seconds
    window_s: int
    #: seconds since 1970
    created_at: int
    #: seconds that outcomes are kept, from when each row ends
    keep_s: int
    metadata: Mapping[str, str] | None = None
    lane: Lane = "bulk"
    tenant: str | None = None
    #: of the API key that pays for the tokens
    key_id: str = ""
    allowance: Mapping[str, int | None] = field(default_factory=dict)
    #: W3C traceparent of the request that made the batch
    trace: str | None = None

    @property
    def life_s(self) -> int:
        """Seconds that the record is kept: longer than the ledger keeps the batch."""
        return self.window_s + self.keep_s + 2 * 86_400

    @property
    def caller(self) -> Caller:
        """The holder of the API key, as when the batch was made."""
        return Caller(self.key_id, self.tenant, allowance=Allowance(**self.allowance))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the input has been read, so that another process can go on."""

    #: rows of the whole input; None until it has been checked
    total: int | None = None
    #: as the first row names it
    model: str | None = None
    #: bytes, lines and rows that are on the queue
    offset: int = 0
    line: int = 0
    rows: int = 0
    #: rows that never became jobs, by code
    bad: Mapping[str, int] = field(default_factory=dict)
    #: whether all rows are on the queue
    sealed: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class LineError:
    """Why the input is refused as a whole, as OpenAI's `errors.data` has it."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class SavedBatch:
    """All that the gateway keeps about one batch."""

    record: BatchRecord
    progress: Progress
    errors: tuple[LineError, ...] = ()
    #: of "output" and "errors", the files that their owner has deleted
    deleted: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        return self.record.id

    @classmethod
    def parse(cls, fields: Mapping[bytes, bytes]) -> Self | None:
        """Read the hash of a batch; None if it is empty, or another program has written it."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            record, progress = (json.loads(fields.get(name, b"{}")) for name in (b"record", b"progress"))
            errors: list[dict[str, Any]] = json.loads(fields.get(b"errors", b"[]"))
            deleted = {name.decode()[8:] for name in fields if name.startswith(b"deleted:")}
            return cls(
                BatchRecord(**record),
                Progress(**progress),
                tuple(LineError(**each) for each in errors),
                frozenset(deleted),
            )
        return None
