"""What happened to a job, when: from its entry in the ledger, or from its outcome. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery.backends.base import Backend

from producer.client.states import outcome_of
from vqa.answer import Answer
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.records import AttemptRecord, Header, Unreadable
from vqa.results import Outcome, trace_of
from vqa.tracing.traceparent import Traceparent

#: bytes of an entry that hold its whole header
_HEADER_BYTES = 65_536

#: fields of the record of a webhook (producer/gateway/webhooks/webhooks.lua) without its URL and its secret
_WEBHOOK_FIELDS = ("attempt", "state")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    #: on Redis's clock, but for the end of a job, which is on its worker's
    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened to a job, oldest first."""

    id: str
    events: tuple[Event, ...] = ()
    #: seconds that each stage of the answer took; none before there is one, and none of a reused answer
    stages: Mapping[str, float] | None = None
    #: how the delivery of the job's webhook stands; None without one
    webhook: str | None = None
    #: of the job's OpenTelemetry trace
    trace_id: str | None = None


def queue_timeline(pipe: Any, id: str) -> None:
    """Queue the commands that read what is known of a job."""
    pipe.getrange(entry_key(id), 0, _HEADER_BYTES - 1)
    pipe.get(outcome_key(id))
    pipe.getrange(dead_key(id), 0, _HEADER_BYTES - 1)
    pipe.hmget(f"vqa:webhook:{id}", _WEBHOOK_FIELDS)


def parse_timeline(backend: Backend, id: str, reply: Sequence[Any]) -> Timeline:
    """Read the replies to `queue_timeline`; errors among them, and what is damaged, tell nothing."""
    entry, outcome, dead, webhook = (None if isinstance(each, Exception) else each for each in reply)
    told = _webhook(webhook)
    if entry and (header := _header(entry)):
        return Timeline(id, _past(header.times(), header.history, header), None, told, _trace_id(header.trace))
    if not outcome:
        return Timeline(id, webhook=told)
    ended = outcome_of(backend, outcome)
    # a dead letter's entry has all of its attempts
    header = _header(dead) if dead else None
    times = header.times() if header else _times(outcome)
    history = header.history if header else _attempts(times)
    events = (*_past(times, history, ended), *_end(outcome, ended))
    return Timeline(id, events, _stages(ended), told, _trace_id(trace_of(outcome)))


def _past(times: Mapping[str, Any], history: Sequence[AttemptRecord], job: Outcome | Header) -> tuple[Event, ...]:
    # a dead letter that was sent again has attempts from before it was accepted
    return tuple(sorted([*_begun(times, history), *_last(times, job)], key=lambda event: event.at))


def _begun(times: Mapping[str, Any], history: Sequence[AttemptRecord]) -> Iterator[Event]:
    if isinstance(accepted := times.get("accepted"), int | float):
        yield Event(_at(accepted), f"accepted on {times.get('lane')}")
    for each in history:
        yield Event(_at(each.taken), f"attempt {each.attempt:.0f} on {each.worker}")
        yield Event(_at(each.ended), f"attempt {each.attempt:.0f} ended: {each.error}")


def _last(times: Mapping[str, Any], job: Outcome | Header) -> Iterator[Event]:
    """Yield the attempt that ended the job, or that runs."""
    number = job.attempt if isinstance(job, Answer | Header) else job.attempts
    has_one = job.state == "leased" if isinstance(job, Header) else isinstance(job, Answer) or number
    if isinstance(taken := times.get("taken"), int | float) and has_one:
        past = [each.taken for each in _attempts(times)]
        if taken not in past:
            yield Event(_at(taken), f"attempt {number:.0f} on {times.get('worker')}")


def _end(data: bytes, outcome: Outcome) -> Iterator[Event]:
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        at = datetime.fromisoformat(json.loads(data)["date_done"])
        # another program's may be without a time zone
        yield Event(at if at.tzinfo else at.replace(tzinfo=UTC), _told(outcome))


def _told(outcome: Outcome) -> str:
    if not isinstance(outcome, Answer):
        return f"closed: {type(outcome).__name__}: {outcome}"
    if outcome.reused:
        return "answered with the answer of an earlier job"
    usage = outcome.usage
    tokens = f"{usage.prompt_tokens} tokens of prompt, {usage.completion_tokens} of answer"
    return f"answered ({outcome.finish_reason}): {tokens}"


def _stages(outcome: Outcome) -> Mapping[str, float] | None:
    if not isinstance(outcome, Answer) or outcome.reused:
        return None
    timings = outcome.timings
    return {
        "media_s": timings.media_s,
        "engine_s": timings.engine_s,
        "slot_wait_s": timings.slot_wait_s,
        "prefill_s": timings.prefill_s,
        "decode_s": timings.decode_s,
    }


def _webhook(fields: Sequence[bytes | None] | None) -> str | None:
    if not fields or not any(fields):
        return None
    attempt, state = (each.decode(errors="replace") if each else None for each in fields)
    return f"{state or 'not delivered yet'}, {attempt or 0} attempts"


def _header(entry: bytes) -> Header | None:
    with suppress(Unreadable):
        return Header.parse(entry.partition(b"\n")[0])
    return None


def _times(outcome: bytes) -> Mapping[str, Any]:
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        times = json.loads(outcome).get("times")
        return times if isinstance(times, dict) else {}
    return {}


def _attempts(times: Mapping[str, Any]) -> list[AttemptRecord]:
    found = times.get("attempts")
    given = found if isinstance(found, list) else []
    return list(Header.parse_history(given))


def _trace_id(trace: str | None) -> str | None:
    parsed = Traceparent.parse(trace)
    return parsed.trace_id if parsed else None


def _at(ms: float) -> datetime:
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(ms / 1000, UTC)
    return datetime.fromtimestamp(0, UTC)
