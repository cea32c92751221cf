"""Where a job stands, for whoever asks without waiting. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from celery.backends.base import Backend

from producer.core import outcome_of
from vqa.answer import Answer
from vqa.job import Lane
from vqa.ledger import Header, State, entry_key, outcome_key


@dataclass(frozen=True, slots=True)
class JobState:
    """An open job's place in the ledger, or how a closed one ended."""

    id: str
    state: State | Literal["answered", "failed", "unknown"]
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
    """Queue what asks where `ids` stand at one moment; the pipeline must be a transaction."""
    pipe.time()
    pipe.mget([entry_key(id) for id in ids])
    pipe.mget([outcome_key(id) for id in ids])


def parse_states(backend: Backend, ids: Sequence[str], reply: Sequence[Any]) -> dict[str, JobState]:
    """What `queue_states` saw."""
    (seconds, micros), entries, outcomes = reply
    now = seconds * 1000 + micros // 1000
    return {
        id: _open(id, entry, now) if entry is not None else _closed(backend, id, outcome)
        for id, entry, outcome in zip(ids, entries, outcomes, strict=True)
    }


def _open(id: str, entry: bytes, now: int) -> JobState:
    header = Header.parse(entry.partition(b"\n")[0])
    remaining_s = (header.deadline - now) / 1000
    # a job that went back to the queue remembers who held it
    worker = header.worker if header.state == "leased" else None
    return JobState(id, header.state, header.lane, header.attempt, worker, remaining_s, header.error)


def _closed(backend: Backend, id: str, data: bytes | None) -> JobState:
    if data is None:
        return JobState(id, "unknown")
    outcome = outcome_of(backend, data)
    if isinstance(outcome, Answer):
        return JobState(id, "answered", attempt=outcome.attempt, worker=outcome.worker, error=outcome.last_error)
    return JobState(id, "failed", attempt=outcome.attempts, error=f"{type(outcome).__name__}: {outcome}")
