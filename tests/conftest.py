"""A real Redis for every test, and real worker processes for those that ask for one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from producer.demo.redis_server import EmbeddedRedis
from tests.worker_process import StartWorker, WorkerProcess
from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VQA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The url of a server of this run's own; no server is a failure, never a skip."""
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def redis(redis_server: str) -> Iterator[Redis]:
    """The server, empty."""
    with connect(QueueSettings(redis_url=redis_server)) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def redis_url(redis_server: str, redis: Redis) -> str:
    """Where the empty server is."""
    return redis_server


@pytest.fixture
def queue_settings(redis_url: str) -> QueueSettings:
    return QueueSettings(redis_url=redis_url)


@pytest.fixture
def app(queue_settings: QueueSettings) -> Iterator[Celery]:
    with make_app(queue_settings) as app:
        yield app


@pytest.fixture
def start_worker(redis_url: str, queue_settings: QueueSettings, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers on this test's queue: `start_worker("a", VQA_ECHO_DELAY_S="1")`; they end with the test."""
    started: list[WorkerProcess] = []
    with connect(queue_settings) as connection:

        def start(name: str = "worker", ready: bool = True, **variables: str) -> WorkerProcess:
            worker = WorkerProcess(redis_url, name, tmp_path / f"{name}.log", **variables)
            started.append(worker)
            if ready:
                worker.wait_ready(Ledger(connection))
            return worker

        yield start
        for worker in started:
            worker.stop()
