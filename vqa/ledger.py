"""The open jobs in Redis: five verbs, each one atomic script (`ledger.lua`), and what can be read of a job.

An open job is in the ledger, an outcome is in Celery's result backend, never both. Knows nothing of how jobs are
published, answered or shown. The functions that build a call do no I/O, so that synchronous and asynchronous callers
share them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, cast

from redis import Redis

from vqa.job import LANES, Lane

SCRIPT = files("vqa").joinpath("ledger.lua").read_text(encoding="utf-8")

#: pub/sub channel of ids that were closed while a worker held them (cancelled, past their deadline)
DROPPED = "vqa:dropped"
WORKERS = "vqa:workers"
DEADLINES = "vqa:deadlines"

#: a reply list nobody reads is gone after this long
REPLY_TTL_MS = 3_600_000

State = Literal["queued", "leased", "delayed"]
STATES: tuple[State, ...] = ("queued", "leased", "delayed")

#: what `take` says of a job that it does not hand out
Refusal = Literal["unknown", "closed", "held", "late"]

Call = tuple[list[str], list[str | bytes | int | float]]


def entry_key(id: str) -> str:
    """Where the ledger keeps an open job."""
    return f"vqa:job:{id}"


def outcome_key(id: str) -> str:
    """Where Celery's Redis result backend keeps (and announces) a task's result."""
    return f"celery-task-meta-{id}"


def accept_call(id: str, lane: Lane, payload: bytes, timeout_s: float, reply: str = "") -> Call:
    """`accept`: into the ledger, unless the id is open or closed already; says `accepted`, `open` or `closed`."""
    return [entry_key(id)], ["accept", id, outcome_key(id), lane, payload, round(timeout_s * 1000), reply]


def close_call(id: str, token: str, outcome: bytes, ttl_s: float) -> Call:
    """`close`: out of the ledger, with its outcome; says 1, or 0 where this token does not hold it."""
    arguments = ["close", id, token, outcome_key(id), outcome, round(ttl_s * 1000), REPLY_TTL_MS]
    return [entry_key(id)], cast(list[str | bytes | int | float], arguments)


@dataclass(frozen=True, slots=True)
class Header:
    """What the ledger knows of an open job besides its payload. Times in ms on Redis's clock."""

    state: State
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
    #: the token of the attempt that was last given back or put off
    retried: str | None = None
    #: the last transient error, as `Class: message`
    error: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """From the JSON that the script writes."""
        return cls(**json.loads(data))


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


class Ledger:
    """The verbs over a synchronous connection. Raises redis.exceptions.RedisError when Redis does."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)

    def _run(self, call: Call) -> Any:
        return self._script(keys=call[0], args=call[1])

    def accept(self, id: str, lane: Lane, payload: bytes, timeout_s: float, reply: str = "") -> str:
        """See `accept_call`."""
        return cast(bytes, self._run(accept_call(id, lane, payload, timeout_s, reply))).decode()

    def accept_many(self, calls: Iterable[Call]) -> list[str]:
        """Several `accept`s in one round trip, in their order."""
        with self._redis.pipeline(transaction=False) as pipe:
            for keys, arguments in calls:
                self._script(keys=keys, args=arguments, client=pipe)
            return [reply.decode() for reply in pipe.execute()]

    def take(self, id: str, worker: str, token: str, lease_s: float) -> Lease | Refusal:
        """Count an attempt and start a lease, or say why the job is not to be had."""
        arguments = ["take", id, outcome_key(id), worker, token, round(lease_s * 1000)]
        verdict, *rest = self._run(([entry_key(id)], cast(Any, arguments)))
        if verdict != b"taken":
            return cast(Refusal, verdict.decode())
        header, payload, taken = rest
        return Lease(id, token, Header.parse(header), payload, int(taken))

    def renew(
        self, worker: str, held: Sequence[tuple[str, str]], lease_s: float, about: Mapping[str, Any]
    ) -> list[str]:
        """Lengthen the leases of `held` (id, token) and say that the worker lives; the ids that it has lost."""
        arguments: list[Any] = ["renew", worker, json.dumps(about), round(lease_s * 1000)]
        arguments += [word for pair in held for word in pair]
        return [id.decode() for id in self._run(([entry_key(id) for id, _ in held], arguments))]

    def retry(self, id: str, token: str, delay_s: float = 0, error: str = "", counted: bool = True) -> bool:
        """Back to the queue, after a delay if there is one. An empty token moves only what is due.

        With no delay the caller publishes the job again. Uncounted, it is a give-back: the attempt did not happen.
        """
        arguments: list[Any] = ["retry", id, token, round(delay_s * 1000), error, "1" if counted else "0"]
        return bool(self._run(([entry_key(id)], arguments)))

    def close(self, id: str, token: str, outcome: bytes, ttl_s: float) -> bool:
        """See `close_call`. An empty token closes whoever holds it: the worker is told, and its answer is dropped."""
        return bool(self._run(close_call(id, token, outcome, ttl_s)))

    def header(self, id: str) -> Header | None:
        """What is known of an open job."""
        entry = cast(bytes | None, self._redis.get(entry_key(id)))
        return Header.parse(entry.partition(b"\n")[0]) if entry else None

    def due(self, state: State | None, limit: int) -> list[str]:
        """Ids whose lease ran out (`leased`), whose delay ended (`delayed`), or whose deadline passed (None)."""
        seconds, micros = self._redis.time()
        now = seconds * 1000 + micros // 1000
        keys = [DEADLINES] if state is None else [f"vqa:{state}:{lane}" for lane in LANES]
        found = (self._redis.zrangebyscore(key, "-inf", now, start=0, num=limit) for key in keys)
        return [id.decode() for ids in found for id in cast(list[bytes], ids)]

    def counts(self) -> dict[Lane, dict[State, int]]:
        """How many jobs are open, by lane and state."""
        with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                for state in STATES:
                    pipe.zcard(f"vqa:{state}:{lane}")
            numbers = iter(pipe.execute())
        return {lane: {state: next(numbers) for state in STATES} for lane in LANES}

    def workers(self, within_s: float) -> list[WorkerInfo]:
        """The workers that renewed within so many seconds, by name."""
        seconds, _ = self._redis.time()
        found = []
        for name, value in cast(dict[bytes, bytes], self._redis.hgetall(WORKERS)).items():
            seen, _, about = value.partition(b"\n")
            info = WorkerInfo(name.decode(), json.loads(seen)["seen"], json.loads(about))
            if info.seen >= (seconds - within_s) * 1000:
                found.append(info)
        return sorted(found, key=lambda info: info.name)

    def gone(self, for_s: float) -> list[str]:
        """The workers that are listed and have not renewed for so many seconds."""
        living = {worker.name for worker in self.workers(for_s)}
        return [worker.name for worker in self.workers(within_s=float("inf")) if worker.name not in living]

    def leave(self, worker: str) -> None:
        """Forget what a worker said of itself: it is stopping, or it is long gone."""
        self._redis.hdel(WORKERS, worker)
