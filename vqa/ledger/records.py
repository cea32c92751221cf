"""What the ledger says of jobs and workers: frozen types, read from the JSON that its script writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from vqa.job import Lane
from vqa.results import Tally

#: `waiting` is accepted and not on the queue yet: others have their turn
State = Literal["waiting", "queued", "leased", "delayed"]


#: what `take` says of a job that it does not hand out; `alone`: only to who runs nothing else
Refusal = Literal["unknown", "closed", "held", "overdue", "alone"]

#: what an attempt that is given back counts as: nothing, an attempt, an attempt that lost its worker
Charge = Literal["0", "1", "lost"]

#: on what `close` insists: nothing, that its deadline has passed, that its last attempt's lease ran out
CloseIf = Literal["", "overdue", "last"]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
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
    #: on whose behalf, '' for nobody's; None of an interactive job without one, and of an entry of an earlier release
    tenant: str | None = None
    #: the bulk submission that it belongs to
    batch: str | None = None
    #: of a dead letter in a batch: the code under which that counted it
    code: str | None = None
    #: the newest attempts that ended without an outcome
    history: tuple[AttemptRecord, ...] = ()
    #: of a dead letter: why, and since when
    reason: str | None = None
    dead: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the JSON that the script writes; what a later release says besides is let pass."""
        said = json.loads(data)
        history = tuple(AttemptRecord(**_known(AttemptRecord, entry)) for entry in said.get("history", ()))
        return cls(**_known(cls, said) | {"history": history})


def _known(kind: type[Header | AttemptRecord], said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name in kind.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's time-limited hold on a job: what `take` handed out."""

    id: str
    token: str
    header: Header
    payload: bytes
    #: Redis's time at the take, in ms
    taken: int
    #: ids of the bulk lane that it is now the turn of, for the taker to publish
    promoted: tuple[str, ...] = ()

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


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job is to be closed. An empty token closes whoever holds it: the worker is told, and its answer dropped."""

    id: str
    token: str
    #: as the result backend keeps it, for so long
    outcome: bytes
    ttl_s: float
    #: where there is one it becomes a dead letter
    reason: str = ""
    error: str = ""
    close_if: CloseIf = ""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of a `close`; true where the job is closed."""

    done: bool
    #: as a lease's, for the closer to publish
    promoted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.done
