"""What waiting for a replica costs: submissions and answers with `VQA_WAIT_REPLICAS` 1 against 0, on one machine."""

from __future__ import annotations

import time

import redis

from bench.figures import Rate, Row, alternately, rate
from bench.stage import worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis

REPEATS = 5
#: jobs submitted one by one, and in chunks
SINGLE, MANY = 300, 3000


def rows() -> list[Row]:
    with EmbeddedRedis() as master, EmbeddedRedis() as replica:
        _follow(replica.url, master.url)
        with Client(redis_url=master.url, wait_replicas=1) as waiting, Client(redis_url=master.url) as plain:
            single = alternately(REPEATS, lambda: _single(waiting), lambda: _single(plain))
            many = alternately(REPEATS, lambda: _many(waiting), lambda: _many(plain))
            redis.Redis.from_url(master.url).flushall()
            answered = alternately(REPEATS, lambda: _answered(waiting), lambda: _answered(plain))
    return [
        _row("submit, one job a call", *single),
        _row("submit_many", *many),
        _row("echo jobs answered by one worker", *answered),
    ]


def _row(what: str, waiting: Rate, plain: Rate) -> Row:
    return Row.ratio(f"{what}, confirmed by a replica", waiting, plain, 0.3, "without waiting for the replica")


def _follow(replica_url: str, master_url: str) -> None:
    master = redis.Redis.from_url(master_url)
    about = master.get_connection_kwargs()
    master.config_set("repl-diskless-sync-delay", 0)
    with redis.Redis.from_url(replica_url) as replica:
        replica.config_set("masterauth", about["password"])
        replica.replicaof(about["host"], about["port"])
        while replica.info("replication")["master_link_status"] != "up":
            time.sleep(0.05)


def _job() -> Job:
    return Job(messages=[{"role": "user", "content": "What colour is the circle?"}], lane="bulk")


def _single(client: Client) -> float:
    return rate(SINGLE, lambda: [client.submit(_job()) for _ in range(SINGLE)])


def _many(client: Client) -> float:
    return rate(MANY, lambda: client.submit_many([_job() for _ in range(MANY)]))


def _answered(client: Client) -> float:
    """Return answers per second, from the first submission to the last answer; the worker waits as the client does."""
    wait = str(client.settings.wait_replicas)
    with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16", VQA_WAIT_REPLICAS=wait):
        started = time.perf_counter()
        ids = client.submit_many(_job() for _ in range(MANY))
        return sum(1 for _ in client.answers(ids)) / (time.perf_counter() - started)
