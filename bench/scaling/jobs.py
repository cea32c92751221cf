"""What a job costs Redis from its submission to the answer that is read, and a worker by being there.

Workers have the echo engine, so that Redis sees what it would see of any. Computing time is the server's own, of the
main thread: other programs on the machine change it little, where they change rates much.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from redis import Redis

from bench.scaling.figures import Found, Spread
from bench.scaling.usage import Usage
from bench.stage import worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.jobs.lane import Lane
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Lease

QUESTION = "What colour is the circle?"
JOBS = 1500
REPEATS = 5
_IDLE_S = 8.0
_LEASES = (64, 320)
_RENEWALS = 60


def measure(jobs: int = JOBS, repeats: int = REPEATS, idle_s: float = _IDLE_S) -> Found:
    """Return microseconds of Redis and bytes of a job by lane, and what a worker and a lease cost a second."""
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, Redis.from_url(server.url) as redis:
        return _jobs(client, redis, jobs, repeats) | _workers(client, redis, idle_s) | _leases(redis, repeats)


def _jobs(client: Client, redis: Redis, jobs: int, repeats: int) -> dict[str, Spread]:
    found: dict[str, list[float]] = {}
    with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16"):
        ways: dict[str, Callable[[int], None]] = {
            "bulk, submit_many": lambda count: _answered(client, client.submit_many(_make("bulk", count))),
            "interactive, submit_many": lambda count: _answered(
                client, client.submit_many(_make("interactive", count))
            ),
            "interactive, submit": lambda count: _answered(
                client, [client.submit(job) for job in _make("interactive", count)]
            ),
        }
        for way in ways.values():
            way(200)
        for _ in range(repeats):
            for name, way in ways.items():
                used = _used(redis, partial(way, jobs))
                for what, value in (
                    (f"job: us of Redis, {name}", used.cpu_s * 1e6 / jobs),
                    (f"job: bytes received, {name}", used.in_bytes / jobs),
                    (f"job: bytes sent, {name}", used.out_bytes / jobs),
                    (f"job: commands from outside, {name}", _outer(used) / jobs),
                ):
                    found.setdefault(what, []).append(value)
    return {what: Spread(runs) for what, runs in found.items()}


def _make(lane: Lane, count: int) -> list[Job]:
    return [Job(messages=[{"role": "user", "content": QUESTION}], lane=lane) for _ in range(count)]


def _answered(client: Client, ids: Sequence[str]) -> None:
    answered = sum(1 for _ in client.answers(ids))
    if answered != len(ids):
        raise RuntimeError(f"{answered} of {len(ids)} jobs were answered")


#: what clients call; all other commands are called by scripts
_CALLS = ("evalsha", "eval", "blmpop", "lpush", "mget", "zmscore", "fcall")


def _outer(used: Usage) -> int:
    return sum(used.calls.get(name, 0) for name in _CALLS)


def _used(redis: Redis, work: Callable[[], object]) -> Usage:
    before = Usage.read(redis)
    work()
    return Usage.read(redis).since(before)


def _workers(client: Client, redis: Redis, idle_s: float) -> dict[str, Spread]:
    """Measure idle workers: the first one has the janitor, each further one costs the difference."""
    found: dict[str, list[float]] = {}
    before = redis.info("clients")["connected_clients"]
    with ExitStack() as stack:
        cpu: list[float] = []
        for number in range(3):
            stack.enter_context(worker(client, name=f"idle{number}", VQA_ENGINE="echo", VQA_SLOTS="16"))
            time.sleep(2)
            connections = redis.info("clients")["connected_clients"] - before
            used = _used(redis, lambda: time.sleep(idle_s))
            cpu.append(used.cpu_s * 1e6 / idle_s)
            found.setdefault("idle worker: connections", []).append(connections / (number + 1))
            found.setdefault("idle worker: scripts a second, all workers together", []).append(used.scripts / idle_s)
        found["idle worker: us of Redis a second, the first (with the sweep)"] = [cpu[0]]
        found["idle worker: us of Redis a second, each further one"] = [
            later - earlier for earlier, later in itertools.pairwise(cpu)
        ]
    return {what: Spread(runs) for what, runs in found.items()}


def _leases(redis: Redis, repeats: int) -> dict[str, Spread]:
    """Measure the renewal of the leases that a worker holds: us of Redis for each, in a call for all."""
    found: dict[str, list[float]] = {}
    ledger = Ledger(redis)
    for count in _LEASES:
        redis.flushall()
        leases = []
        for number in range(count):
            ledger.accept(f"held-{number}", "bulk", b"x" * 400, 3600)
            lease = ledger.take(f"held-{number}", "card0@host", f"token-{number}", 3600)
            assert isinstance(lease, Lease)
            leases.append((lease.id, lease.token))
        for _ in range(repeats):
            used = _used(redis, partial(_renew, ledger, leases))
            found.setdefault(f"lease: us of Redis for a renewal, {count} at once", []).append(
                used.cpu_s * 1e6 / (_RENEWALS * count)
            )
    return {what: Spread(runs) for what, runs in found.items()}


def _renew(ledger: Ledger, leases: Sequence[tuple[str, str]]) -> None:
    for _ in range(_RENEWALS):
        ledger.renew("card0@host", leases, 3600, {"slots": len(leases)})
