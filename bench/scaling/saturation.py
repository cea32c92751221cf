"""How many jobs one Redis carries: the commands of jobs as clients and workers send them, without either.

For each job: accept, its message pushed and popped, take, close, and the outcome read. The clients only send bytes that
were made before, so that Redis is the busiest process. Its own computing time for a job says what a whole core does,
also on a machine where it does not get one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis import Redis

from bench.scaling.figures import Found, Spread
from bench.scaling.load import encode, exchange, send_all
from bench.scaling.tls import serve_tls
from bench.scaling.usage import Usage
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.ledger.commands import SCRIPT, Command, accept_command, close_command, entry_key, outcome_key
from vqa.ledger.records import Ending
from vqa.settings import Limits

JOBS = 1500
CONNECTIONS = 32
REPEATS = 5
_OUTCOME = b'{"status": "SUCCESS", "result": "' + b"x" * 600 + b'"}'

#: commands sent before a reply is awaited
Way = Literal["a command", "a job's six commands", "those of 16 jobs"]


@dataclass(frozen=True)
class Carried:
    """What one run found."""

    #: jobs a second of wall time
    rate: float
    #: jobs in a second of the main thread's computing time
    of_a_core: float
    #: the main thread's computing time, of the run
    busy: float


class Jobs:
    """The commands of jobs, made beforehand."""

    def __init__(self, client: Client, redis: Redis) -> None:
        """Submit a job, whose message and entry all others repeat under ids of their own."""
        self._id = client.submit(Job(messages=[{"role": "user", "content": "What colour is the circle?"}]))
        [message] = redis.lrange("interactive", 0, -1)
        entry = redis.get(entry_key(self._id))
        assert isinstance(entry, bytes)
        assert isinstance(message, bytes)
        self._message, self._payload = message, entry.partition(b"\n")[2]
        self._sha = redis.script_load(SCRIPT)
        self._limits = Limits()

    def of(self, id: str) -> list[bytes]:
        """Return the six commands of a job."""
        ours, its = self._id.encode(), id.encode()
        take: Command = ([entry_key(id)], ["take", id, outcome_key(id), "card0@host", f"token-{id}", 9000, "0", 0])
        close = Ending(id, f"token-{id}", _OUTCOME, 3600)
        payload, limits = self._payload.replace(ours, its), self._limits
        return [
            self._script(accept_command(id, "interactive", payload, 3600, "vqa:reply:bench", limits)),
            encode(["LPUSH", "interactive", self._message.replace(ours, its)]),
            encode(["BLMPOP", "0.1", 1, "interactive", "RIGHT"]),
            self._script(take),
            self._script(close_command(close, self._limits)),
            encode(["MGET", outcome_key(id)]),
        ]

    def _script(self, command: Command) -> bytes:
        keys, arguments = command
        return encode(["EVALSHA", self._sha, len(keys), *keys, *arguments])


def measure(jobs: int = JOBS, repeats: int = REPEATS, connections: int = CONNECTIONS) -> Found:
    """Return jobs a second of Redis's computing time by how they are sent, and of wall time."""
    runs: dict[str, list[Carried]] = {}
    ways: tuple[Way, ...] = ("a command", "a job's six commands", "those of 16 jobs")
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, Redis.from_url(server.url) as redis:
        made = Jobs(client, redis)
        with serve_tls(redis) as (tls_url, context):
            for _ in range(repeats):
                for way in ways:
                    runs.setdefault(f"{way} at a time", []).append(
                        carry(redis, server.url, made, jobs, way, connections)
                    )
                for way in ways[:2]:
                    runs.setdefault(f"{way} at a time, TLS", []).append(
                        carry(redis, tls_url, made, jobs, way, connections, context)
                    )
                runs.setdefault("a command at a time, 500 connections", []).append(
                    carry(redis, server.url, made, jobs, "a command", 500)
                )
            redis.config_set("appendonly", "no")
            for _ in range(repeats):
                runs.setdefault("a command at a time, no append-only file", []).append(
                    carry(redis, server.url, made, jobs, "a command", connections)
                )
    return {
        f"{what}: {kind}": Spread([getattr(each, field) for each in found])
        for what, found in runs.items()
        for kind, field in (
            ("jobs a second of computing time", "of_a_core"),
            ("jobs a second", "rate"),
            ("busy share of a core", "busy"),
        )
    }


def carry(
    redis: Redis,
    url: str,
    made: Jobs,
    count: int,
    way: Way,
    connections: int,
    tls: ssl.SSLContext | None = None,
) -> Carried:
    """Send `count` jobs from empty to empty."""
    redis.flushdb()
    sends = [_exchanges(made, range(first, count, connections), way) for first in range(connections)]
    before, started = Usage.read(redis), time.perf_counter()
    send_all(url, sends, tls)
    seconds = time.perf_counter() - started
    used = Usage.read(redis).since(before)
    if len(redis.keys("celery-task-meta-*")) != count:
        raise RuntimeError("not every job was closed")
    return Carried(count / seconds, count / used.cpu_s, used.cpu_s / seconds)


def _exchanges(made: Jobs, numbers: Sequence[int], way: Way) -> list[bytes]:
    jobs = [made.of(f"job-{number}") for number in numbers]
    if way == "a command":
        return [exchange([command]) for job in jobs for command in job]
    size = 1 if way == "a job's six commands" else 16
    return [
        exchange([command for job in jobs[start : start + size] for command in job])
        for start in range(0, len(jobs), size)
    ]
