"""The ledger: open jobs and dead letters in Redis. Each verb is one atomic call of the Lua script.

A job is either open in the ledger or has an outcome in Celery's result backend, never both. Knows nothing of how jobs
are published, answered or shown.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from typing import Any, cast

from redis import Redis

from vqa.jobs.lane import LANES, Lane
from vqa.ledger.commands import SCRIPT, Command, accept_command, close_command, entry_key, outcome_key
from vqa.ledger.records import (
    UNREADABLE,
    Charge,
    Closed,
    Ending,
    Header,
    Lease,
    Refusal,
    State,
    Unreadable,
    WorkerInfo,
    texts,
)
from vqa.ledger.script import Script, Unconfirmed
from vqa.settings import Limits

log = logging.getLogger(__name__)

#: pub/sub channel of ids that were closed while leased: cancelled or overdue
DROPPED = "vqa:dropped"
WORKERS = "vqa:workers"
DEADLINES = "vqa:deadlines"
DEAD = "vqa:dead"

#: bytes of a malformed message that are kept
DEAD_LETTER_BYTES = 65_536

STATES: tuple[State, ...] = ("waiting", "queued", "leased", "delayed")
#: states with a sorted set per lane; `waiting` has one per tenant
IN_FLIGHT: tuple[State, ...] = STATES[1:]


class Ledger:
    """The verbs, over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, limits: Limits | None = None, script: str = SCRIPT) -> None:
        self._redis = redis
        self._limits = limits or Limits()
        self._run = Script(redis, script)

    def accept(
        self,
        id: str,
        lane: Lane,
        payload: bytes,
        timeout_s: float,
        reply: str = "",
        tenant: str | None = None,
        batch: str | None = None,
        may_wait: bool = False,
        model: str | None = None,
        named: str | None = None,
    ) -> str:
        owner = (tenant, batch, may_wait)
        command = accept_command(id, lane, payload, timeout_s, reply, self._limits, *owner, model=model, named=named)
        [verdict] = self.accept_many([command])
        return verdict

    def accept_many(self, commands: Iterable[Command]) -> list[str]:
        """Send several accept commands in one round trip; return the replies in order.

        Raises Unconfirmed if too few replicas have the jobs, which are open then; accepting them again is harmless.
        """
        sent = list(commands)
        try:
            return [reply.decode() for reply in self._run.run(sent, self._limits.replicas)]
        except Unconfirmed as error:
            (_, (_, id, *_)), more = sent[0], len(sent) - 1
            which = "job " + str(id) + (f" and {more} more" if more else "")
            raise Unconfirmed(f"{error}: {which}; submitting again with the same id is safe") from error

    def take(self, id: str, worker: str, token: str, lease_s: float, alone: bool = False) -> Lease | Refusal:
        """Count an attempt and start a lease, or return why not. The caller publishes the lease's `promoted`."""
        terms = (round(lease_s * 1000), "1" if alone else "0", self._limits.tenant or 0)
        verdict, *rest = self._run([entry_key(id)], "take", id, outcome_key(id), worker, token, *terms)
        if verdict != b"taken":
            return cast(Refusal, verdict.decode())
        header, payload, taken, promoted = rest
        return Lease(id, token, Header.parse(header), payload, int(taken), tuple(_ids(promoted)))

    def renew(
        self,
        worker: str,
        held: Sequence[tuple[str, str]],
        lease_s: float,
        about: Mapping[str, Any],
        models: Sequence[str] = (),
        declared: bool = False,
    ) -> list[str]:
        """Renew the leases `held` (id, token) and the worker's entry; return the ids of lost leases.

        `models` are the names that the worker serves, `declared` if it was given them.
        """
        words = [word for pair in held for word in pair]
        keys = [entry_key(id) for id, _ in held]
        served = (" ".join(models), "1" if declared else "")
        return _ids(self._run(keys, "renew", worker, json.dumps(about), round(lease_s * 1000), *served, *words))

    def give_back(self, leases: Iterable[tuple[Lease, Charge]], error: str) -> list[Lease]:
        """Return several jobs to the queue in one round trip; return the leases that were still valid."""
        returned = list(leases)
        commands: list[Command] = [
            ([entry_key(lease.id)], ["retry", lease.id, lease.token, 0, error if charge == "lost" else "", charge])
            for lease, charge in returned
        ]
        return [lease for (lease, _), moved in zip(returned, self._run.run(commands), strict=True) if moved]

    def retry(self, id: str, token: str, delay_s: float = 0, error: str = "", charge: Charge = "1") -> bool:
        """Return a job to the queue, after a delay if given; without one, the caller publishes it again.

        Returns False if the lease is lost.
        """
        return bool(self._run([entry_key(id)], "retry", id, token, round(delay_s * 1000), error, charge))

    def close(self, ending: Ending) -> Closed:
        """Close a job with its outcome; with a reason it becomes a dead letter. False if the lease is lost."""
        [closed] = self.close_many([ending])
        return closed

    def close_many(self, endings: Iterable[Ending]) -> list[Closed]:
        """Close several jobs in one round trip; return the results in order.

        Replicas that do not confirm are only logged: a close that a failover loses leaves a job that runs again.
        """
        commands = [close_command(each, self._limits) for each in endings]
        return [self._closed(reply) for reply in self._run.run(commands, self._limits.replicas, must=False)]

    def _closed(self, reply: Sequence[Any]) -> Closed:
        done, promoted, *queue = reply
        self._log_dropped(done - 1)
        return Closed(bool(done), tuple(_ids(promoted)), *texts(queue))

    def dead_letter_message(self, id: str, lane: Lane, raw: bytes, reason: str) -> None:
        """Keep a malformed message as a dead letter, cut to DEAD_LETTER_BYTES."""
        kept = (round(self._limits.dead_s * 1000), self._limits.dead)
        self._log_dropped(
            self._run([entry_key(id)], "dead_letter_message", id, lane, raw[:DEAD_LETTER_BYTES], reason, *kept)
        )

    def write_outcome(self, id: str, outcome: bytes, ttl_s: float) -> None:
        """Write the outcome of a Celery task whose id no job can have, unless it has one."""
        key = outcome_key(id)
        if self._redis.set(key, outcome, nx=True, px=round(ttl_s * 1000)):
            self._redis.publish(key, outcome)

    def _log_dropped(self, count: int) -> None:
        if count > 0:
            log.error(
                "dropped the %d oldest dead letters: at most %d are kept (VQA_DEAD_MOST)", count, self._limits.dead
            )

    def reopen(self, id: str, margin_s: float) -> str:
        """Make a dead letter an open job with a fresh timeout; return its queue, on which the caller publishes it.

        Or `waiting` (it is published when it is promoted), `unknown` (no such dead letter) or `open`. Its images are
        kept until `margin_s` after the new deadline.
        """
        terms = (round(margin_s * 1000), self._limits.tenant or 0)
        command: Command = ([entry_key(id)], ["reopen", id, outcome_key(id), *terms])
        [[verdict]] = self._run.run([command], self._limits.replicas)
        return str(verdict.decode())

    def now_ms(self) -> int:
        """Return the time on Redis's clock."""
        seconds, micros = self._redis.time()
        return seconds * 1000 + micros // 1000

    def overdue(self, limit: int) -> list[str]:
        """Return up to `limit` ids of jobs past their deadline."""
        return _ids(self._run([], "overdue", limit))

    def expire(self, queue: str, limit: int, error: str, asked_ms: int, lease_s: float) -> tuple[list[str], list[str]]:
        """Queue jobs whose lease has expired; return their ids, and the ids of jobs that lost their last attempt.

        `asked_ms` is Redis's time at which the caller found that leases may be expired. If that is more than two
        seconds away, no lease is expired. A lease that ends much later than `lease_s` from now, and than it was taken
        for, has expired: Redis's clock was set back.
        """
        queued, last = self._run([], "expire", queue, limit, error, asked_ms, round(lease_s * 1000))
        return _ids(queued), _ids(last)

    def release_delayed(self, queue: str, limit: int) -> list[str]:
        """Queue jobs whose delay has ended; return their ids."""
        return _ids(self._run([], "release_delayed", queue, limit))

    def requeue(self, queue: str, age_s: float, before_ms: float | None, limit: int) -> list[str]:
        """Mark jobs queued for over `age_s`, and `age_s` before `before_ms`, as queued now; return their ids.

        Times are on Redis's clock; None for no second condition.
        """
        before = "" if before_ms is None else f"{before_ms:.0f}"
        return _ids(self._run([], "requeue", queue, round(age_s * 1000), before, limit))

    def headers(self, ids: Sequence[str]) -> dict[str, Header]:
        """Return the headers of those of `ids` that are open; UNREADABLE for a damaged entry."""
        entries = cast(list[bytes | None], self._redis.mget(map(entry_key, ids))) if ids else []
        return {id: _header(entry) for id, entry in zip(ids, entries, strict=True) if entry is not None}

    def promote(self, queue: str) -> list[str]:
        """Queue waiting jobs, if a queue has too few, round-robin by tenant; return their ids, for publishing."""
        return _ids(self._run([], "promote", queue, self._limits.tenant or 0))

    def counts(self) -> dict[Lane, dict[State, int]]:
        """Count the open jobs of all models, by lane and state."""
        numbers = iter(self._run([], "counts"))
        return {lane: {state: next(numbers) for state in STATES} for lane in LANES}

    def workers(self, within_s: float) -> list[WorkerInfo]:
        """Return the workers that renewed within the last `within_s` seconds, sorted by name.

        Lines that cannot be read are left out, see `Damage.worker_flaws`.
        """
        seconds, _ = self._redis.time()
        return living_workers(cast(dict[bytes, bytes], self._redis.hgetall(WORKERS)), seconds, within_s)

    def vanished_workers(self, for_s: float) -> list[str]:
        """Return the names of listed workers that have not renewed for `for_s` seconds."""
        living = {worker.name for worker in self.workers(for_s)}
        return [worker.name for worker in self.workers(within_s=float("inf")) if worker.name not in living]

    def forget_worker(self, worker: str) -> None:
        """Remove a worker that is stopping or has vanished from the list."""
        self._redis.hdel(WORKERS, worker)


def _header(entry: bytes) -> Header:
    try:
        return Header.parse(entry.partition(b"\n")[0])
    except Unreadable:
        return UNREADABLE


def living_workers(listed: Mapping[bytes, bytes], now_s: float, within_s: float) -> list[WorkerInfo]:
    """Return those of the hash of workers that renewed within `within_s` seconds before `now_s`, sorted by name."""
    found = [info for info in starmap(_worker, listed.items()) if info is not None]
    # a worker that was seen later than now vanished before Redis's clock was set back, or renews soon
    living = (info for info in found if abs(now_s * 1000 - info.seen) <= within_s * 1000)
    return sorted(living, key=lambda info: info.name)


def _worker(name: bytes, line: bytes) -> WorkerInfo | None:
    try:
        return WorkerInfo.parse(name, line)
    except Unreadable:
        return None


def _ids(reply: Iterable[bytes]) -> list[str]:
    return texts(reply)
