"""The ledger's records of jobs and workers, parsed from the JSON that its script writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Self

from vqa.jobs.lane import LANES, Lane
from vqa.results import Tally
from vqa.routing import is_model_name, queue_name

#: `waiting`: accepted, but not queued before its tenant's turn
State = Literal["waiting", "queued", "leased", "delayed"]

#: why `take` refuses a job; `alone`: its last attempt must run alone in a worker
Refusal = Literal["unknown", "closed", "held", "overdue", "alone"]

#: how an attempt counts: not at all, as an attempt, as an attempt that lost its worker
Charge = Literal["0", "1", "lost"]

#: condition of `close`: none, the deadline has passed, or the lease of the last attempt has expired
CloseIf = Literal["", "overdue", "last"]


class Unreadable(ValueError):
    """What Redis holds under a key of vqa is damaged; the text says how, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that ended without an outcome. Times are in ms on Redis's clock."""

    attempt: int
    worker: str
    taken: int
    ended: int
    #: as `Class: message`
    error: str
    #: of its lease; None for entries of earlier releases
    token: str | None = None


#: fields that each attempt has
_ATTEMPT_TYPES: Mapping[str, type | UnionType] = {
    "attempt": int | float,
    "worker": str,
    "taken": int | float,
    "ended": int | float,
    "error": str,
}

#: newest attempts of a job that its outcome keeps
_TOLD_ATTEMPTS = 5


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
    #: ms that the current lease or delay lasts; None for entries of earlier releases
    span: int | None = None
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
    #: whether a client reads the text while it is generated
    stream: bool = False
    #: W3C traceparent of the producer
    trace: str | None = None
    #: name of the model that answers; None for whichever worker takes the job
    model: str | None = None
    #: of a dead letter in a batch: the code under which the batch counted it
    code: str | None = None
    #: newest attempts that ended without an outcome, oldest first
    history: tuple[AttemptRecord, ...] = ()
    #: of a dead letter: why and since when it is one
    reason: str | None = None
    dead: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the script's JSON, ignoring fields of later releases and damaged attempts. Raises Unreadable."""
        fields = _object(data, "its header")
        history = cls.parse_history(fields.get("history"))
        for name, kind in _HEADER_TYPES.items():
            if not _fits(fields.get(name, 0 if name in _OPTIONAL else None), kind):
                raise Unreadable(f"its header has no valid {name}")
        if fields["lane"] not in LANES:
            raise Unreadable("its header has no valid lane")
        if (model := fields.get("model")) is not None and not is_model_name(model):
            raise Unreadable("its header has no valid model")
        damaged = {name: None for name, kind in _TOLD_TYPES.items() if not _fits(fields.get(name), kind)}
        return cls(**_known(cls, fields) | damaged | {"history": history})

    @staticmethod
    def parse_history(attempts: object) -> tuple[AttemptRecord, ...]:
        """Return the attempts of a list that are none but valid ones."""
        return tuple(map(_attempt, filter(_is_attempt, attempts if isinstance(attempts, list) else ())))

    def times(self) -> dict[str, Any]:
        """Return what the job's outcome tells of its past: times in ms on Redis's clock, and its newest attempts."""
        told: dict[str, Any] = {"accepted": int(self.accepted), "lane": self.lane}
        if self.taken is not None:
            told |= {"taken": int(self.taken), "worker": self.worker}
        past = [{name: getattr(each, name) for name in _ATTEMPT_TYPES} for each in self.history[-_TOLD_ATTEMPTS:]]
        return told | ({"attempts": past} if past else {})

    @property
    def queue(self) -> str:
        """The list on which the job's messages wait."""
        return queue_name(self.lane, self.model)


#: what a job cannot do without. Lua writes large numbers as floats
_HEADER_TYPES: Mapping[str, type | UnionType] = {
    "state": str,
    "lane": str,
    **dict.fromkeys(("accepted", "deadline", "attempt", "lost", "dead"), int | float),
}
_OPTIONAL = ("dead",)

#: what logs, traces and outcomes tell; None if it is damaged
_TOLD_TYPES: Mapping[str, type | UnionType] = {"trace": str, "worker": str, "taken": int | float}


def texts(words: Iterable[bytes]) -> list[str]:
    """Decode ids, leaving out what is not UTF-8: no job and no batch has such an id."""
    found = []
    for word in words:
        with suppress(UnicodeDecodeError):
            found.append(word.decode())
    return found


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(f"{what} is no JSON object") from None
    if not isinstance(fields, dict):
        raise Unreadable(f"{what} is no JSON object")
    return fields


def _is_attempt(entry: object) -> bool:
    return isinstance(entry, dict) and all(_fits(entry.get(name), kind) for name, kind in _ATTEMPT_TYPES.items())


def _fits(value: object, kind: type | UnionType) -> bool:
    """Return whether a value is of this kind, and neither NaN nor infinite."""
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))


def _attempt(entry: Mapping[str, Any]) -> AttemptRecord:
    return AttemptRecord(**_known(AttemptRecord, entry))


def _known(kind: type[Header | AttemptRecord], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}


#: stands for a header that cannot be read, so that the script is asked about its job, and sets it aside
UNREADABLE = Header(state="queued", lane="bulk", accepted=0, deadline=0, attempt=0, lost=0)


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's time-limited hold on a job, returned by `take`."""

    id: str
    token: str
    header: Header
    payload: bytes
    #: when the lease began, in ms on Redis's clock
    taken: int
    #: ids of bulk jobs that `take` promoted, for the caller to publish on the queue of this one
    promoted: tuple[str, ...] = ()
    #: when this process got the lease, on the clock of `time.monotonic()`
    began: float = field(default_factory=time.monotonic, compare=False)

    @property
    def remaining_s(self) -> float:
        """Seconds from the start of the lease to the deadline."""
        return max(0.0, (self.header.deadline - self.taken) / 1000)

    @property
    def queued_s(self) -> float:
        """Seconds from acceptance to the start of the lease; 0 if Redis's clock was set back meanwhile."""
        return max(0.0, (self.taken - self.header.accepted) / 1000)

    @property
    def age_s(self) -> float:
        """Seconds from acceptance until now."""
        return self.queued_s + time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's description of itself, updated with each renewal."""

    name: str
    #: last renewal, in ms on Redis's clock
    seen: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: bytes, value: bytes) -> Self:
        """Parse a field of the hash of workers. Raises Unreadable."""
        first, _, rest = value.partition(b"\n")
        seen, about = _object(first, "its line").get("seen"), _object(rest, "its description of itself")
        if not isinstance(seen, int | float):
            raise Unreadable("its line has no time")
        try:
            return cls(name.decode(), int(seen), about)
        except (UnicodeDecodeError, ValueError, OverflowError):
            raise Unreadable("its name or its time cannot be read") from None


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
    #: where they are published
    queue: str = "bulk"

    def __bool__(self) -> bool:
        return self.done
