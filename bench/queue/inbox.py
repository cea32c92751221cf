"""The inbox: how long an entry waits until its job is accepted, and how many entries one worker process reads.

The jobs stay open, so that the worker's task threads, which share its interpreter, have little else to do.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from redis import Redis

from bench.figures import Rate, Row
from bench.stage import worker
from producer import Client
from producer.demo.redis_server import EmbeddedRedis
from vqa.inbox import INBOX
from vqa.ledger.commands import entry_key

SAMPLES = 1000
ENTRIES = 5000
REPEATS = 5


def rows() -> list[Row]:
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis, Client(redis_url=server.url) as client:
        with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16", VQA_DRAIN_S="1"):
            waits = sorted(_wait_ms(redis, number) for number in range(SAMPLES))
        middle, late = statistics.median(waits), waits[SAMPLES * 95 // 100]
        rate = Rate([_rate(redis, client) for _ in range(REPEATS)])
    spread = f"p50 {middle:.2f} ms, p95 {late:.2f} ms ({waits[0]:.2f} to {waits[-1]:.2f})"
    return [
        Row("from XADD to the accepted job, one at a time", spread, "", "p95 under 50 ms", late < 50),
        Row("entries of the inbox accepted by one worker", str(rate), "", "at least 500/s", rate.median >= 500),
    ]


def _entry(id: str) -> dict[Any, Any]:
    job = {"id": id, "messages": [{"role": "user", "content": "What colour is the circle?"}], "lane": "bulk"}
    return {"job": json.dumps(job | {"metadata": {"echo_delay_s": "3600"}}), "reply": "vqa:reply:bench"}


def _wait_ms(redis: Redis, number: int) -> float:
    """Add an entry; return milliseconds until its job is in the ledger."""
    # the worker waits for new entries again
    time.sleep(0.002)
    id = f"wait-{number}"
    entry, key = _entry(id), entry_key(id)
    started = time.perf_counter()
    redis.xadd(INBOX, entry)
    while not redis.exists(key):
        pass
    return (time.perf_counter() - started) * 1000


def _rate(redis: Redis, client: Client) -> float:
    """Return entries per second of a worker that finds the inbox filled."""
    redis.flushall()
    with redis.pipeline(transaction=False) as pipe:
        for number in range(ENTRIES):
            pipe.xadd(INBOX, _entry(f"rate-{number}"))
        pipe.execute()
    with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16", VQA_DRAIN_S="1"):
        # from when about a tenth is read, so that the worker's start does not count
        before = _until_below(redis, ENTRIES * 9 // 10)
        started = time.perf_counter()
        _until_below(redis, 1)
        return before / (time.perf_counter() - started)


def _until_below(redis: Redis, length: int) -> int:
    while (left := redis.xlen(INBOX)) >= length:
        time.sleep(0.001)
    return left
