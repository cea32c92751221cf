"""What the ledger says of jobs and workers: frozen types, read from the JSON that its script writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from vqa.job import Lane

State = Literal["queued", "leased", "delayed"]


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt that ended without an outcome. Times in ms on Redis's clock."""

    attempt: int
    worker: str
    taken: int
    ended: int
    #: as `Class: message`
    error: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the ledger knows of a job besides its payload. Times in ms on Redis's clock."""

    state: State | Literal["dead"]
    lane: Lane
    accepted: int
    deadline: int
    #: takes that counted so far
    attempt: int
    #: workers that vanished under it
    lost: int
    reply: str = ""
    worker: str | None = None
    token: str | None = None
    #: when the attempt in hand began
    taken: int | None = None
    #: the attempt in hand is the job's last, and runs with no other in its worker
    alone: bool = False
    #: the token of the attempt that was last given back or put off
    retried: str | None = None
    #: the last transient error, as `Class: message`
    error: str | None = None
    #: the newest attempts that ended without an outcome
    history: tuple[Past, ...] = ()
    #: of a dead letter: why, and since when
    reason: str | None = None
    dead: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the JSON that the script writes."""
        fields = json.loads(data)
        return cls(**fields | {"history": tuple(Past(**entry) for entry in fields.get("history", ()))})


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's time-limited hold on a job: what `take` handed out."""

    id: str
    token: str
    header: Header
    payload: bytes
    #: Redis's time at the take, in ms
    taken: int

    @property
    def remaining_s(self) -> float:
        """From the take to the deadline, in seconds."""
        return (self.header.deadline - self.taken) / 1000

    @property
    def queued_s(self) -> float:
        """From acceptance to this take, in seconds."""
        return (self.taken - self.header.accepted) / 1000


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself with each renewal."""

    name: str
    #: Redis's time of its last renewal, in ms
    seen: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: bytes, value: bytes) -> Self:
        """From a field of the workers' hash."""
        seen, _, about = value.partition(b"\n")
        return cls(name.decode(), json.loads(seen)["seen"], json.loads(about))
