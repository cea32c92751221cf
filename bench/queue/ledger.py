"""How long each verb of the ledger holds up Redis: by size of the payloads, and by number of open jobs.

Times are Redis's own, from its slow log, so that neither the network nor this process counts. Verbs of the sweep are
measured with a whole portion of jobs that are due, `renew` with the leases of a worker with 128 slots.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from bench.figures import Row
from producer.demo.redis_server import EmbeddedRedis
from vqa.jobs.lane import Lane
from vqa.ledger.batches import Batches
from vqa.ledger.commands import accept_command
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry, model_queues
from vqa.ledger.records import Ending, Lease
from vqa.ledger.script import Script
from vqa.routing import queue_name
from vqa.settings import Limits

PAYLOADS = {"1 kB": 10**3, "100 kB": 10**5, "1 MB": 10**6}
OPEN_JOBS = (10, 1_000, 100_000)

#: of the open jobs, as many have the payload as fit into this; the others have 1 kB
_FILL_BYTES = 10**9
_SLOTS = 128
_WORKERS = 2_000
_MODELS = 20
#: the sweep's portion of each verb
_PORTION = 500
#: jobs of one pipeline
_CHUNK_BYTES = 16 * 10**6
_REPEATS = 20
_LEASE_S = 3600.0
_LANE: Lane = "bulk"

#: a verb that holds up Redis for longer is short; a portion of a sweep waits for nothing else
_LIMIT_MS = 100.0

#: verb -> milliseconds of each call
Times = dict[str, list[float]]


def rows(open_jobs: Sequence[int] = OPEN_JOBS) -> list[Row]:
    """Measure every verb: a row for each, and for each size of payloads."""
    with EmbeddedRedis() as server, Redis.from_url(server.url, socket_timeout=60) as redis:
        redis.config_set("slowlog-log-slower-than", 0)
        redis.config_set("slowlog-max-len", 10_000)
        table = {
            (size, number): Stage(redis, PAYLOADS[size], number).run() for size in PAYLOADS for number in open_jobs
        }
    verbs = table["1 kB", open_jobs[0]]
    return [
        _row(verb, size, {number: table[size, number][verb] for number in open_jobs})
        for verb in verbs
        for size in PAYLOADS
    ]


def _row(verb: str, size: str, times: dict[int, list[float]]) -> Row:
    figures = [f"{statistics.median(each):,.2f} ({max(each):,.2f})" for each in times.values()]
    numbers = ", ".join(f"{number:,}" for number in times)
    reached = all(statistics.median(each) <= _LIMIT_MS for each in times.values())
    return Row(
        f"{verb}, {size}", " | ".join(figures), f"ms with {numbers} open jobs", f"under {_LIMIT_MS:.0f} ms", reached
    )


class Stage:
    """A ledger with open jobs, on which each verb is called."""

    def __init__(self, redis: Redis, payload: int, open_jobs: int) -> None:
        self._redis = redis
        self._payload = b"x" * payload
        self._limits = Limits(open_jobs=2**53, dead=2**53)
        self._ledger = Ledger(redis, self._limits)
        self._times: Times = {}
        redis.flushall()
        # half of the jobs waits for its turn, as there is room for few in the queue
        large = min(open_jobs, _FILL_BYTES // payload)
        self._accept([f"open-{number}" for number in range(large)], self._payload, may_wait=True)
        self._accept([f"small-{number}" for number in range(open_jobs - large)], b"x" * 1000, may_wait=True)
        for number in range(_WORKERS):
            redis.hset("vqa:workers", f"card{number}@host", '{"seen": 1}\n{"slots": 128, "model": "some/model"}')

    def run(self) -> Times:
        """Call every verb; return its times."""
        self._jobs()
        self._leases()
        self._sweep()
        self._dead_letters()
        self._batches()
        self._models()
        return self._times

    def _jobs(self) -> None:
        ids = [f"job-{number}" for number in range(_REPEATS)]
        self._measure("accept", lambda: self._accept(ids, self._payload))
        leases = self._measure("take", lambda: self._take(ids))
        self._measure(
            "retry", lambda: [self._ledger.retry(each.id, each.token, 0, "EngineError: x") for each in leases]
        )
        leases = self._take(ids)
        self._measure("close", lambda: [self._ledger.close(Ending(each.id, each.token, b"{}", 60)) for each in leases])
        self._measure("counts", lambda: [self._ledger.counts() for _ in range(_REPEATS)])

    def _leases(self) -> None:
        leases = self._taken("held", _SLOTS, _LEASE_S)
        held = [(lease.id, lease.token) for lease in leases]

        def renew(times: int, count: bool = False) -> None:
            for _ in range(times):
                if count:
                    self._redis.delete("vqa:capacity")
                self._ledger.renew("card0@host", held, _LEASE_S, {"slots": _SLOTS})

        renew(1, count=True)
        self._measure(f"renew: {_SLOTS} leases", lambda: renew(_REPEATS))
        self._measure(f"renew: the same, and a count of {_WORKERS:,} workers", lambda: renew(_REPEATS, count=True))
        self._redis.zadd(f"vqa:leased:{_LANE}", dict.fromkeys((lease.id for lease in leases), 1))
        self._expire(_SLOTS)
        self._measure(f"renew: {_SLOTS} leases that ran out", lambda: renew(1))
        self._close(leases)

    def _sweep(self) -> None:
        leases = self._taken("lost", _PORTION, 0)
        self._measure(f"expire: {_PORTION} leases", lambda: self._expire(_PORTION))
        self._close(leases)
        leases = self._taken("delayed", _PORTION, _LEASE_S)
        for lease in leases:
            self._ledger.retry(lease.id, lease.token, 0.001, "EngineError: x")
        self._measure(f"release_delayed: {_PORTION} jobs", lambda: self._ledger.release_delayed(_LANE, _PORTION))
        self._close(leases)
        ids = [f"late-{number}" for number in range(_PORTION)]
        self._accept(ids, self._payload, timeout_s=0)
        self._measure(f"overdue: {_PORTION} jobs", lambda: self._ledger.overdue(_PORTION))
        # a negative age: every queued job has lost its message
        self._measure(f"requeue: {_PORTION} jobs", lambda: self._ledger.requeue(_LANE, -60, None, _PORTION))
        self._redis.set("vqa:capacity", 10_000)
        self._measure("promote: 256 jobs", lambda: self._ledger.promote(_LANE))

    def _dead_letters(self) -> None:
        leases = self._taken("dead", _REPEATS, _LEASE_S)
        endings = [Ending(lease.id, lease.token, b"{}", 60, "attempts_used_up", "x") for lease in leases]
        self._measure("close: a dead letter", lambda: [self._ledger.close(ending) for ending in endings])
        self._measure("reopen", lambda: [self._ledger.reopen(lease.id, 60) for lease in leases])

        def keep(ledger: Ledger, count: int) -> None:
            for number in range(count):
                ledger.dead_letter_message(f"malformed-{number}", _LANE, self._payload, "malformed: x")

        self._measure("dead_letter_message", lambda: keep(self._ledger, 1200))
        few = Ledger(self._redis, Limits(dead=100))
        self._measure("dead_letter_message: VQA_DEAD_MOST lowered by 1,100", lambda: keep(few, 1))

    def _batches(self) -> None:
        batches = Batches(self._redis)
        ids = [f"batch-{number}" for number in range(_REPEATS)]
        lines = [(f"job-{number}", "a file's name.jpg") for number in range(1000)]

        def each(call: Callable[[str], object]) -> Callable[[], object]:
            return lambda: [call(id) for id in ids]

        self._measure("batch_create", each(lambda id: batches.create(id, _LANE)))
        self._measure("batch_rows: 1,000 rows", each(lambda id: batches.add_rows(id, 0, lines)))
        self._measure("batch_expect", each(lambda id: batches.expect(id, 1000)))
        self._measure("batch_count", each(lambda id: batches.count(id, {"bad_image": 5}, 1000)))
        self._measure("batch_status", each(lambda id: batches.set_status(id, "failed")))
        self._measure("batch_seal", each(lambda id: batches.seal(id, 1000)))
        self._measure("batch_cancel", each(batches.cancel))

    def _models(self) -> None:
        names = [f"model-{number}" for number in range(_MODELS)]
        self._ledger.accept_many(
            accept_command(f"of-{name}", _LANE, self._payload, 86_400, "", self._limits, model=name) for name in names
        )
        registry = ModelRegistry(self._redis, keep_s=60, lease_s=_LEASE_S)
        queues = model_queues(self._redis)
        self._measure(f"depths: {_MODELS} models", lambda: [registry.depths(queues) for _ in range(_REPEATS)])
        self._measure(f"forget_models: {_MODELS} models", lambda: [registry.forget() for _ in range(_REPEATS)])
        self._accept([f"shared-{number}" for number in range(_PORTION)], self._payload, model="canary", named=names[0])
        run, arguments = Script(self._redis), [queue_name(_LANE, "canary"), 0, _PORTION, 0, names[0]]
        self._measure(f"return_shared: {_PORTION} jobs", lambda: run([], "return_shared", *arguments))

    def _measure(self, verb: str, calls: Callable[[], Any]) -> Any:
        self._redis.slowlog_reset()
        result = calls()
        log = self._redis.slowlog_get(10_000)
        self._times[verb] = [each["duration"] / 1000 for each in log if each["command"].upper().startswith(b"EVALSHA")]
        return result

    def _accept(
        self, ids: Sequence[str], payload: bytes, timeout_s: float = 86_400, may_wait: bool = False, **models: Any
    ) -> None:
        size = max(1, _CHUNK_BYTES // len(payload))
        for start in range(0, len(ids), size):
            self._ledger.accept_many(
                accept_command(id, _LANE, payload, timeout_s, "", self._limits, may_wait=may_wait, **models)
                for id in ids[start : start + size]
            )

    def _take(self, ids: Sequence[str], lease_s: float = _LEASE_S) -> list[Lease]:
        taken = (self._ledger.take(id, "card0@host", f"token-of-{id}", lease_s) for id in ids)
        return [lease for lease in taken if isinstance(lease, Lease)]

    def _taken(self, name: str, count: int, lease_s: float) -> list[Lease]:
        ids = [f"{name}-{number}" for number in range(count)]
        self._accept(ids, self._payload)
        return self._take(ids, lease_s)

    def _expire(self, count: int) -> None:
        seconds, _ = self._redis.time()
        self._ledger.expire(_LANE, count, "WorkerLost: its lease ran out", seconds * 1000, _LEASE_S)

    def _close(self, leases: Sequence[Lease]) -> None:
        self._ledger.close_many([Ending(lease.id, "", b"{}", 60) for lease in leases])
