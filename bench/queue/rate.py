"""The queue without a model: echo jobs against a plain Celery task, and `submit_many` against `.delay()`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis

from bench.figures import Row, alternately, rate
from bench.queue.bare import make_bare_app
from bench.stage import process, worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis

JOBS = 3000
REPEATS = 5
QUESTION = "What colour is the circle?"


def rows() -> list[Row]:
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        bare = make_bare_app(server.url)
        submitted, delayed = alternately(
            REPEATS,
            lambda: rate(JOBS, lambda: client.submit_many(_jobs())),
            lambda: rate(JOBS, lambda: [bare.tasks["bare.answer"].delay(QUESTION) for _ in range(JOBS)]),
        )
        connection = redis.Redis.from_url(server.url)
        connection.flushall()
        answered, called = alternately(REPEATS, lambda: _echo(client), lambda: _bare(server.url, connection))
        size = _bytes_per_job(client, connection)
    return [
        Row.ratio("submit_many, ledger included", submitted, delayed, 3, "a loop of .delay() with a result backend"),
        Row.ratio("echo jobs answered by one worker", answered, called, 0.6, "a bare Celery no-op task, same pool"),
        Row("Redis for a queued text job", f"{size:,.0f} bytes", "", "under 2,000", size < 2000),
    ]


def _jobs(count: int = JOBS) -> Sequence[Job]:
    return [Job(messages=[{"role": "user", "content": QUESTION}], lane="bulk") for _ in range(count)]


def _echo(client: Client) -> float:
    """Return answers per second, from the first submission to the last answer, with a worker that is ready."""
    with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16"):
        started = time.perf_counter()
        ids = client.submit_many(_jobs())
        answered = sum(1 for _ in client.answers(ids))
        return answered / (time.perf_counter() - started)


def _bare(url: str, connection: redis.Redis) -> float:
    """Return the same for the plain task; its results are counted without reading them."""
    app = make_bare_app(url)
    with process("-m", "bench.queue.bare", url):
        app.tasks["bare.answer"].delay(QUESTION).get(timeout=60)
        connection.delete(*connection.keys("celery-task-meta-*"))
        started = time.perf_counter()
        with app.producer_pool.acquire(block=True) as producer, producer.batch(1000):
            ids = [app.tasks["bare.answer"].apply_async([QUESTION], producer=producer).id for _ in range(JOBS)]
        keys = [f"celery-task-meta-{id}" for id in ids]
        while connection.exists(*keys[-50:]) < 50 or connection.exists(*keys) < JOBS:
            time.sleep(0.01)
        return JOBS / (time.perf_counter() - started)


def _bytes_per_job(client: Client, connection: redis.Redis) -> float:
    client.submit_many(_jobs(500))
    before = connection.info("memory")["used_memory"]
    client.submit_many(_jobs(2000))
    return float(connection.info("memory")["used_memory"] - before) / 2000
