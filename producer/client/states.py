"""Where a job stands, for whoever asks without waiting. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from celery.backends.base import Backend

from producer.client.submission import outcome_of
from vqa.answer import Answer
from vqa.errors import JobGivenUp
from vqa.job import Lane
from vqa.ledger.commands import entry_key, outcome_key
from vqa.ledger.ledger import DEAD
from vqa.ledger.records import Header, State


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
