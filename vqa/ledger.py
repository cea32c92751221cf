"""The open jobs in Redis, and the dead letters: verbs, each one atomic script (`ledger.lua`, `sweep.lua`).

An open job is in the ledger, an outcome is in Celery's result backend, never both. Knows nothing of how jobs are
published, answered or shown. The functions that build a call do no I/O, so that synchronous and asynchronous callers
share them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal, cast

from redis import Redis

from vqa.entry import Header, Lease, State, WorkerInfo
from vqa.job import LANES, Lane

log = logging.getLogger(__name__)

SCRIPT = "\n".join(
    [
        files("vqa").joinpath("ledger.lua").read_text(encoding="utf-8"),
        files("vqa").joinpath("sweep.lua").read_text(encoding="utf-8"),
        "return verbs[ARGV[1]](unpack(ARGV, 2))",
    ]
)

#: pub/sub channel of ids that were closed while a worker held them (cancelled, past their deadline)
DROPPED = "vqa:dropped"
WORKERS = "vqa:workers"
DEADLINES = "vqa:deadlines"
DEAD = "vqa:dead"

#: a reply list nobody reads is gone after this long
REPLY_TTL_MS = 3_600_000

#: of what is set aside so much is kept
ASIDE_BYTES = 65_536

STATES: tuple[State, ...] = ("queued", "leased", "delayed")

#: what `take` says of a job that it does not hand out; `alone`: only to who runs nothing else
Refusal = Literal["unknown", "closed", "held", "late", "alone"]

#: what an attempt that is given back counts as: nothing, an attempt, an attempt that lost its worker
Charge = Literal["0", "1", "lost"]

#: on what `close` insists: nothing, that its deadline has passed, that its last attempt's lease ran out
Only = Literal["", "late", "last"]

Call = tuple[list[str], list[str | bytes | int | float]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept: open jobs a lane, and dead letters by number and time."""

    open_jobs: int = 1_000_000
    dead: int = 10_000
    dead_s: float = 7 * 86_400

    @property
    def unbounded(self) -> Limits:
        """For a job whose message is there already: to refuse it would lose it."""
        # as large as Lua counts exactly
        return replace(self, open_jobs=2**53)


def entry_key(id: str) -> str:
    """Where the ledger keeps an open job."""
    return f"vqa:job:{id}"


def dead_key(id: str) -> str:
    """Where a dead letter is kept."""
    return f"vqa:dead:{id}"


def outcome_key(id: str) -> str:
    """Where Celery's Redis result backend keeps (and announces) a task's result."""
    return f"celery-task-meta-{id}"


def accept_call(id: str, lane: Lane, payload: bytes, timeout_s: float, reply: str, most: int) -> Call:
    """`accept`: into the ledger, unless the id is known already; says `accepted`, `open`, `closed` or `full`."""
    arguments = ["accept", id, outcome_key(id), lane, payload, round(timeout_s * 1000), reply, most]
    return [entry_key(id)], cast(list[str | bytes | int | float], arguments)


class Ledger:
    """The verbs over a synchronous connection. Raises redis.exceptions.RedisError when Redis does."""

    def __init__(self, redis: Redis, limits: Limits | None = None, script: str = SCRIPT) -> None:
        self._redis = redis
        self._limits = limits or Limits()
        self._script = redis.register_script(script)

    def _run(self, keys: list[str], *arguments: Any) -> Any:
        return self._script(keys=keys, args=arguments)

    def accept(self, id: str, lane: Lane, payload: bytes, timeout_s: float, reply: str = "") -> str:
        """See `accept_call`."""
        [verdict] = self.accept_many([accept_call(id, lane, payload, timeout_s, reply, self._limits.open_jobs)])
        return verdict

    def accept_many(self, calls: Iterable[Call]) -> list[str]:
        """Several `accept`s in one round trip, in their order."""
        with self._redis.pipeline(transaction=False) as pipe:
            for keys, arguments in calls:
                self._script(keys=keys, args=arguments, client=pipe)
            return [reply.decode() for reply in pipe.execute()]

    def take(self, id: str, worker: str, token: str, lease_s: float, alone: bool = False) -> Lease | Refusal:
        """Count an attempt and start a lease, or say why the job is not to be had."""
        lease_ms, by_itself = round(lease_s * 1000), "1" if alone else "0"
        verdict, *rest = self._run([entry_key(id)], "take", id, outcome_key(id), worker, token, lease_ms, by_itself)
        if verdict != b"taken":
            return cast(Refusal, verdict.decode())
        header, payload, taken = rest
        return Lease(id, token, Header.parse(header), payload, int(taken))

    def renew(
        self, worker: str, held: Sequence[tuple[str, str]], lease_s: float, about: Mapping[str, Any]
    ) -> list[str]:
        """Lengthen the leases of `held` (id, token) and say that the worker lives; the ids that it has lost."""
        words = [word for pair in held for word in pair]
        keys = [entry_key(id) for id, _ in held]
        return _ids(self._run(keys, "renew", worker, json.dumps(about), round(lease_s * 1000), *words))

    def give_back(self, leases: Iterable[tuple[Lease, Charge]], error: str) -> list[Lease]:
        """Several attempts back to the queue in one round trip; those that were still held."""
        handed = list(leases)
        with self._redis.pipeline(transaction=False) as pipe:
            for lease, charge in handed:
                told = error if charge == "lost" else ""
                arguments = ["retry", lease.id, lease.token, 0, told, charge]
                self._script(keys=[entry_key(lease.id)], args=cast(Any, arguments), client=pipe)
            return [lease for (lease, _), moved in zip(handed, pipe.execute(), strict=True) if moved]

    def retry(self, id: str, token: str, delay_s: float = 0, error: str = "", charge: Charge = "1") -> bool:
        """Back to the queue, after a delay if there is one. With no delay the caller publishes the job again."""
        return bool(self._run([entry_key(id)], "retry", id, token, round(delay_s * 1000), error, charge))

    def close(
        self, id: str, token: str, outcome: bytes, ttl_s: float, reason: str = "", error: str = "", only: Only = ""
    ) -> bool:
        """Out of the ledger, with its outcome; with a reason it becomes a dead letter. False where it is not held.

        An empty token closes whoever holds it: the worker is told, and its answer is dropped.
        """
        limits = self._limits
        ttl_ms = round(max(ttl_s, limits.dead_s if reason else 0) * 1000)
        kept = (reason, error, round(limits.dead_s * 1000), limits.dead, only)
        done = self._run([entry_key(id)], "close", id, token, outcome_key(id), outcome, ttl_ms, REPLY_TTL_MS, *kept)
        self._tell_dropped(done - 1)
        return bool(done)

    def set_aside(self, id: str, lane: Lane, raw: bytes, reason: str) -> None:
        """Keep what is no job as a dead letter, cut to ASIDE_BYTES."""
        kept = (round(self._limits.dead_s * 1000), self._limits.dead)
        self._tell_dropped(self._run([entry_key(id)], "set_aside", id, lane, raw[:ASIDE_BYTES], reason, *kept))

    def _tell_dropped(self, count: int) -> None:
        if count > 0:
            log.error("there are %d dead letters (VQA_DEAD_MOST): %d of the oldest dropped", self._limits.dead, count)

    def reopen(self, id: str, margin_s: float) -> Lane | Literal["unknown", "open"]:
        """Make a dead letter a job again, with its timeout anew; its lane, on which the caller publishes it."""
        verdict, *lane = self._run([entry_key(id)], "reopen", id, outcome_key(id), round(margin_s * 1000))
        return cast(Lane, (lane or [verdict])[0].decode())

    def late(self, limit: int) -> list[str]:
        """Ids whose deadline has passed."""
        return _ids(self._run([], "late", limit))

    def expire(self, lane: Lane, limit: int, error: str, asked_ms: int) -> tuple[list[str], list[str]]:
        """Queue what lost its worker; those ids, and the ones to give up: they lost it in their last attempt.

        `asked_ms` is Redis's time when it was found that leases may be judged; two seconds later nothing is.
        """
        queued, last = self._run([], "expire", lane, limit, error, asked_ms)
        return _ids(queued), _ids(last)

    def ripen(self, lane: Lane, limit: int) -> list[str]:
        """Queue what was delayed until now; those ids."""
        return _ids(self._run([], "ripen", lane, limit))

    def requeue(self, lane: Lane, age_s: float, before_ms: float | None, limit: int) -> list[str]:
        """Those queued for longer than `age_s`, and by so much before a time on Redis's clock: as if queued now."""
        before = "" if before_ms is None else f"{before_ms:.0f}"
        return _ids(self._run([], "requeue", lane, round(age_s * 1000), before, limit))

    def header(self, id: str) -> Header | None:
        """What is known of an open job."""
        entry = cast(bytes | None, self._redis.get(entry_key(id)))
        return Header.parse(entry.partition(b"\n")[0]) if entry else None

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
        listed = cast(dict[bytes, bytes], self._redis.hgetall(WORKERS))
        found = (WorkerInfo.parse(name, value) for name, value in listed.items())
        return sorted((info for info in found if info.seen >= (seconds - within_s) * 1000), key=lambda info: info.name)

    def gone(self, for_s: float) -> list[str]:
        """The workers that are listed and have not renewed for so many seconds."""
        living = {worker.name for worker in self.workers(for_s)}
        return [worker.name for worker in self.workers(within_s=float("inf")) if worker.name not in living]

    def leave(self, worker: str) -> None:
        """Forget what a worker said of itself: it is stopping, or it is long gone."""
        self._redis.hdel(WORKERS, worker)


def _ids(reply: Iterable[bytes]) -> list[str]:
    return [id.decode() for id in reply]
