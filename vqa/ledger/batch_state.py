"""What Redis says of a batch: its status and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast, get_args

from vqa.jobs.lane import LANES, Lane
from vqa.ledger.records import Unreadable

#: the statuses of OpenAI's batch API
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled", "failed"
]

#: code under which a batch counts jobs that were open when it expired
EXPIRED_CODE = "batch_expired"

_NUMBERS = ("created", "total", "expected", "completed", "failed", "expires")
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class BatchState:
    """A snapshot of a batch. Times are in ms on Redis's clock."""

    id: str
    status: BatchStatus
    created: int
    lane: Lane
    tenant: str = ""
    #: the caller's description of the input, for example a file's name
    input: str = ""
    #: rows read so far; all rows once it is sealed
    total: int = 0
    #: rows of the whole input, if the submitter has said it; total grows up to it
    expected: int = 0
    #: whether no more rows will follow
    sealed: bool = False
    #: when that was said; 0 before, and if an earlier release said it
    sealed_at: int = 0
    completed: int = 0
    failed: int = 0
    #: number of failures by code
    codes: Mapping[str, int] = field(default_factory=dict)
    #: number of answers by worker
    workers: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: of the prompts' tokens, those that workers had in their caches
    cached_tokens: int = 0
    #: of the completions' tokens, those of thoughts
    reasoning_tokens: int = 0
    #: number of open jobs
    open: int = 0
    #: when it ends, even with open jobs; 0 for never
    expires: int = 0
    keep_ms: int = 0
    detached: bool = False
    #: when it reached each status so far
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of rows that are answered or failed."""
        return self.completed + self.failed

    @property
    def left(self) -> int:
        """Number of rows, as far as they are known, that are neither answered nor failed."""
        return max(0, self.rows - self.done, self.open)

    @property
    def rows(self) -> int:
        """Number of rows of the whole input if it is known, else of those read so far."""
        return self.total if self.has_all_rows else max(self.total, self.expected)

    @property
    def has_all_rows(self) -> bool:
        return self.sealed or self.is_over

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "expired", "cancelled", "failed")

    @classmethod
    def parse(cls, id: str, fields: Mapping[bytes, bytes], open: int) -> Self:
        """Parse the hash of a batch with `open` open jobs. Raises Unreadable."""
        try:
            return cls._parse(id, {name.decode(): value.decode() for name, value in fields.items()}, open)
        except UnicodeDecodeError:
            raise Unreadable("a field of it is not UTF-8") from None
        except KeyError as missing:
            raise Unreadable(f"its field {missing.args[0]} is missing") from None
        except ValueError:
            raise Unreadable("a field of it that counts is no number") from None

    @classmethod
    def _parse(cls, id: str, words: Mapping[str, str], open: int) -> Self:
        def numbers(beginning: str = "", end: str = "") -> dict[str, int]:
            return {
                name.removeprefix(beginning).removesuffix(end): int(value)
                for name, value in words.items()
                if name.startswith(beginning) and name.endswith(end)
            }

        plain: dict[str, Any] = {name: int(words.get(name, 0)) for name in (*_NUMBERS, *_TOKENS)}
        if words["status"] not in get_args(BatchStatus) or words["lane"] not in LANES:
            raise Unreadable("its status or its lane is none that vqa knows")
        return cls(
            id=id,
            status=cast(BatchStatus, words["status"]),
            lane=words["lane"],
            tenant=words["tenant"],
            input=words["input"],
            sealed="sealed" in words,
            # earlier releases wrote 1
            sealed_at=sealed if (sealed := int(words.get("sealed", 0))) > 1 else 0,
            codes=numbers("failed:"),
            workers=numbers("worker:"),
            open=open,
            keep_ms=int(words["keep_ms"]),
            detached=words["detached"] == "1",
            # a worker's name may end in _at, too
            times={name: at for name, at in numbers(end="_at").items() if ":" not in name},
            **plain,
        )
