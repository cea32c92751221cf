"""Looks up where jobs stand: the commands to send, and how to read the replies. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from celery.backends.base import Backend

from producer.client.cursor import Cursor, Entry
from vqa.answer import Answer
from vqa.errors import AnswerTimeout, JobGivenUp, UnknownJob, VQAError
from vqa.jobs.lane import Lane
from vqa.ledger.commands import entry_key, outcome_key
from vqa.ledger.ledger import DEAD, DEADLINES
from vqa.ledger.records import Header, State, Unreadable, texts
from vqa.ledger.text_stream import stream_key
from vqa.results import Outcome, decode

#: a client closes a job that is open this long after its deadline; workers and their janitor come first
GRACE_MS = 1000

#: the bytes of an outcome, or why there is none
Found = bytes | UnknownJob


@dataclass(frozen=True, slots=True)
class Look:
    """Result of a lookup. Open jobs before their deadline are in none of the three."""

    found: dict[str, Found]
    #: open although their deadline and the grace have passed
    overdue: list[str]
    #: neither open nor ended; a dead letter that is being retried may appear here once
    unknown: list[str]
    #: newer entries of streams, or why they could not be read
    entries: Mapping[Cursor, Sequence[Entry] | Exception] = field(default_factory=dict)


def reply_list() -> str:
    """Return a new key for the Redis list that receives the ids of a client's ended jobs."""
    return f"vqa:reply:{uuid.uuid4()}"


def queue_look(pipe: Any, ids: Sequence[str], cursors: Sequence[Cursor] = ()) -> None:
    """Queue the commands of a lookup; deadlines before outcomes, so that a job that ends meanwhile is found.

    To be executed with `raise_on_error=False`. No transaction: Redis refuses one when its memory is full.
    """
    pipe.time()
    pipe.zmscore(DEADLINES, list(ids))
    pipe.mget([outcome_key(id) for id in ids])
    for cursor in cursors:
        pipe.xrange(stream_key(cursor.id), min=b"(" + cursor.last)


def parse_look(ids: Sequence[str], replies: Sequence[Any], cursors: Sequence[Cursor] = ()) -> Look:
    """Read the replies to `queue_look`. Raises the first error among them, unless it is about a stream."""
    jobs, streams = replies[:3], replies[3:]
    for error in jobs:
        if isinstance(error, Exception):
            raise error
    (seconds, micros), deadlines, outcomes = jobs
    latest = seconds * 1000 + micros // 1000 - GRACE_MS
    look = Look({}, [], [], dict(zip(cursors, streams, strict=True)))
    for id, deadline, outcome in zip(ids, deadlines, outcomes, strict=True):
        if outcome is not None:
            look.found[id] = outcome
        elif deadline is None:
            look.unknown.append(id)
        elif deadline < latest:
            look.overdue.append(id)
    return look


def parse_replies(reply: Any) -> list[str]:
    """Return the ids that BLMPOP took from a reply list."""
    return texts(reply[1]) if reply else []


def unknown(id: str) -> UnknownJob:
    return UnknownJob(f"job {id} is not open, and Redis holds no outcome of it")


def still_open() -> AnswerTimeout:
    return AnswerTimeout("no answer within timeout_s; the job is still open, ask for its answer again by its id")


def outcome_of(backend: Backend, found: Found) -> Outcome:
    """Decode an outcome; bytes that this version cannot read become a VQAError."""
    return found if isinstance(found, UnknownJob) else decode(backend, found)


def answer_of(outcome: Outcome) -> Answer:
    """Return the answer, or raise the error."""
    if isinstance(outcome, VQAError):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class JobState:
    """Where an open job stands, or how a closed one ended."""

    id: str
    #: `given_up` if it is, or was, a dead letter; `damaged` if its entry in Redis cannot be read
    state: State | Literal["answered", "failed", "given_up", "damaged", "unknown"]
    lane: Lane | None = None
    #: attempts counted so far
    attempt: int = 0
    #: the worker that holds or answered it
    worker: str | None = None
    #: seconds until the deadline of an open job
    remaining_s: float | None = None
    #: the final, or the last transient, error as `Class: message`
    error: str | None = None


def queue_states(pipe: Any, ids: Sequence[str]) -> None:
    """Queue the commands that read states; entries before outcomes, so that a job that ends meanwhile is found.

    No transaction: Redis refuses one when its memory is full.
    """
    pipe.time()
    pipe.mget([entry_key(id) for id in ids])
    pipe.mget([outcome_key(id) for id in ids])
    pipe.zmscore(DEAD, list(ids))


def parse_states(backend: Backend, ids: Sequence[str], reply: Sequence[Any]) -> dict[str, JobState]:
    """Read the replies to `queue_states`."""
    (seconds, micros), entries, outcomes, dead = reply
    now = seconds * 1000 + micros // 1000
    return {
        id: _open(id, entry, now) if entry is not None else _closed(backend, id, outcome, died is not None)
        for id, entry, outcome, died in zip(ids, entries, outcomes, dead, strict=True)
    }


def _open(id: str, entry: bytes, now: int) -> JobState:
    try:
        header = Header.parse(entry.partition(b"\n")[0])
    except Unreadable as error:
        return JobState(id, "damaged", error=f"{error}; workers set it aside among the dead letters")
    remaining_s = (header.deadline - now) / 1000
    # the header of a job that went back to the queue still names its last worker
    worker = header.worker if header.state == "leased" else None
    state = cast(State, header.state)
    return JobState(id, state, header.lane, header.attempt, worker, remaining_s, header.error)


def _closed(backend: Backend, id: str, data: bytes | None, dead: bool) -> JobState:
    if data is None:
        return JobState(id, "given_up" if dead else "unknown")
    outcome = outcome_of(backend, data)
    if isinstance(outcome, Answer):
        return JobState(id, "answered", attempt=outcome.attempt, worker=outcome.worker, error=outcome.last_error)
    state: Literal["given_up", "failed"] = "given_up" if dead or isinstance(outcome, JobGivenUp) else "failed"
    return JobState(id, state, attempt=outcome.attempts, error=f"{type(outcome).__name__}: {outcome}")
