"""The ledger's records of jobs and workers, parsed from the JSON that its script writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from vqa.job import Lane
from vqa.results import Tally

#: `waiting`: accepted, but not queued before its tenant's turn
State = Literal["waiting", "queued", "leased", "delayed"]

#: why `take` refuses a job; `alone`: its last attempt must run alone in a worker
Refusal = Literal["unknown", "closed", "held", "overdue", "alone"]

#: how an attempt counts: not at all, as an attempt, as an attempt that lost its worker
Charge = Literal["0", "1", "lost"]

#: condition of `close`: none, the deadline has passed, or the lease of the last attempt has expired
CloseIf = Literal["", "overdue", "last"]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that ended without an outcome. Times are in ms on Redis's clock."""

    attempt: int
    worker: str
    taken: int
    ended: int
    #: as `Class: message`
    error: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the ledger stores about a job besides its payload. Times are in ms on Redis's clock."""

    state: State | Literal["dead"]
    lane: Lane
    accepted: int
    deadline: int
    #: attempts that counted so far
    attempt: int
    #: workers that vanished while they ran the job
    lost: int
    reply: str = ""
    worker: str | None = None
    token: str | None = None
    #: when the current attempt began
    taken: int | None = None
    #: whether the current attempt is the last one, which runs alone in its worker
    alone: bool = False
    #: token of the attempt that was last returned to the queue or delayed
    retried: str | None = None
    #: last transient error, as `Class: message`
    error: str | None = None
    #: '' for a bulk job without a tenant; None for an interactive one and for entries of earlier releases
    tenant: str | None = None
    #: id of the batch that the job belongs to
    batch: str | None = None
    #: of a dead letter in a batch: the code under which the batch counted it
    code: str | None = None
    #: newest attempts that ended without an outcome, oldest first
    history: tuple[AttemptRecord, ...] = ()
    #: of a dead letter: why and since when it is one
    reason: str | None = None
    dead: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the script's JSON, ignoring fields of later releases."""
        fields = json.loads(data)
        history = tuple(AttemptRecord(**_known(AttemptRecord, entry)) for entry in fields.get("history", ()))
        return cls(**_known(cls, fields) | {"history": history})


def _known(kind: type[Header | AttemptRecord], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's time-limited hold on a job, returned by `take`."""

    id: str
    token: str
    header: Header
    payload: bytes
    #: when the lease began, in ms on Redis's clock
    taken: int
    #: ids of bulk jobs that `take` promoted, for the caller to publish
    promoted: tuple[str, ...] = ()

    @property
    def remaining_s(self) -> float:
        """Seconds from the start of the lease to the deadline."""
        return (self.header.deadline - self.taken) / 1000

    @property
    def queued_s(self) -> float:
        """Seconds from acceptance to the start of the lease."""
        return (self.taken - self.header.accepted) / 1000


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's description of itself, updated with each renewal."""

    name: str
    #: last renewal, in ms on Redis's clock
    seen: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: bytes, value: bytes) -> Self:
        """Parse a field of the hash of workers."""
        seen, _, about = value.partition(b"\n")
        return cls(name.decode(), json.loads(seen)["seen"], json.loads(about))


@dataclass(frozen=True, slots=True)
class Ending:
    """How to close a job. An empty token closes it without its lease: its worker is notified and drops the answer."""

    id: str
    token: str
    #: as encoded for the result backend, which keeps it for `ttl_s` seconds
    outcome: bytes
    ttl_s: float
    #: if not empty, the job becomes a dead letter
    reason: str = ""
    error: str = ""
    close_if: CloseIf = ""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Closed:
    """The result of a `close`; true if the job was closed."""

    done: bool
    #: ids of bulk jobs that `close` promoted, for the caller to publish
    promoted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.done
