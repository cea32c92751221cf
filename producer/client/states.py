"""Where a job stands, for whoever asks without waiting. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from celery.backends.base import Backend

from vqa.answer import Answer
from vqa.errors import AnswerTimeout, JobGivenUp, UnknownJob, VQAError
from vqa.job import Lane
from vqa.ledger.commands import entry_key, outcome_key
from vqa.ledger.ledger import DEAD, DEADLINES
from vqa.ledger.records import Header, State
from vqa.results import Outcome, decode

#: a job open for so long after its deadline is closed by whoever waits for it; workers and their janitor come first
GRACE_MS = 1000

#: the bytes of an outcome, or why there will be none
Found = bytes | UnknownJob


@dataclass(frozen=True, slots=True)
class Look:
    """What has become of some jobs; those that are open and in time are in none of these."""

    found: dict[str, Found]
    #: open past their deadline and its grace
    overdue: list[str]
    #: neither open nor ended; a dead letter that was retried just now may seem so, once
    unknown: list[str]


def reply_list() -> str:
    """A new key for the list on which one client hears which of its jobs ended."""
    return f"vqa:reply:{uuid.uuid4()}"


def queue_look(pipe: Any, ids: Sequence[str]) -> None:
    """Queue what asks what has become of `ids`. In this order, so that a job that ends meanwhile is found.

    No transaction: a Redis that is full would refuse it.
    """
    pipe.time()
    pipe.zmscore(DEADLINES, list(ids))
    pipe.mget([outcome_key(id) for id in ids])


def parse_look(ids: Sequence[str], reply: Sequence[Any]) -> Look:
    """What `queue_look` saw."""
    (seconds, micros), deadlines, outcomes = reply
    latest = seconds * 1000 + micros // 1000 - GRACE_MS
    look = Look({}, [], [])
    for id, deadline, outcome in zip(ids, deadlines, outcomes, strict=True):
        if outcome is not None:
            look.found[id] = outcome
        elif deadline is None:
            look.unknown.append(id)
        elif deadline < latest:
            look.overdue.append(id)
    return look


def parse_replies(reply: Any) -> list[str]:
    """The ids in what BLMPOP took from a reply list."""
    return [id.decode() for id in reply[1]] if reply else []


def unknown(id: str) -> UnknownJob:
    """What is said of an id that nothing is known of."""
    return UnknownJob(f"job {id} is not open, and no outcome of it is kept")


def still_open() -> AnswerTimeout:
    """What is said of a job that its caller does not wait for any longer."""
    return AnswerTimeout("no answer in the time that you gave it; the job goes on, ask for it again by its id")


def outcome_of(backend: Backend, found: Found) -> Outcome:
    """The answer or the error; bytes that this version cannot read are an error too."""
    if isinstance(found, UnknownJob):
        return found
    try:
        return decode(backend, found)
    except (ValueError, KeyError, TypeError) as error:
        return VQAError(f"the job's outcome is not one that this version of vqa reads ({type(error).__name__})")


def answer_of(outcome: Outcome) -> Answer:
    """The answer; raises the error."""
    if isinstance(outcome, VQAError):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class JobState:
    """An open job's place in the ledger, or how a closed one ended."""

    id: str
    #: `given_up`: it is, or was, a dead letter
    state: State | Literal["answered", "failed", "given_up", "unknown"]
    lane: Lane | None = None
    #: attempts that counted so far
    attempt: int = 0
    #: who holds it, or who answered it
    worker: str | None = None
    #: until the deadline, of an open job
    remaining_s: float | None = None
    #: how it failed, or the last transient error, as `Class: message`
    error: str | None = None


def queue_states(pipe: Any, ids: Sequence[str]) -> None:
    """Queue what asks where `ids` stand. In this order, so that a job that ends meanwhile is not unknown.

    No transaction: a Redis that is full would refuse it.
    """
    pipe.time()
    pipe.mget([entry_key(id) for id in ids])
    pipe.mget([outcome_key(id) for id in ids])
    pipe.zmscore(DEAD, list(ids))


def parse_states(backend: Backend, ids: Sequence[str], reply: Sequence[Any]) -> dict[str, JobState]:
    """What `queue_states` saw."""
    (seconds, micros), entries, outcomes, dead = reply
    now = seconds * 1000 + micros // 1000
    return {
        id: _open(id, entry, now) if entry is not None else _closed(backend, id, outcome, died is not None)
        for id, entry, outcome, died in zip(ids, entries, outcomes, dead, strict=True)
    }


def _open(id: str, entry: bytes, now: int) -> JobState:
    header = Header.parse(entry.partition(b"\n")[0])
    remaining_s = (header.deadline - now) / 1000
    # a job that went back to the queue remembers who held it
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
