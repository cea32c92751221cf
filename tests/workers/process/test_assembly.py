"""In which order the parts of a worker start."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from celery import Celery
from redis import Redis

from vqa.errors import NotReady
from vqa.ledger.ledger import WORKERS
from vqa.settings import QueueSettings
from workers.process.assembly import Worker
from workers.tasks import AnswerTask

NAME = "assembled@here"


@pytest.fixture
def address() -> Iterator[str]:
    """Of a port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def worker(
    app: Celery, queue_settings: QueueSettings, address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    """A worker of the echo engine that has loaded, and has not started."""
    for name, value in {"ENGINE": "echo", "CARDS": "cpu", "MEDIA_PROCESSES": "1", "METRICS_ADDRESS": address}.items():
        monkeypatch.setenv(f"VQA_{name}", value)
    app.register_task(AnswerTask())
    # it limits itself to its cards there
    with patch.dict(os.environ):
        worker = Worker(app, queue_settings)
        worker.plan(NAME)
        worker.load()
        yield worker
        worker.stop()


def test_a_worker_whose_start_fails_at_its_last_step_is_never_listed(worker: Worker, redis: Redis) -> None:
    before = set(threading.enumerate())
    with pytest.raises(NotReady, match="VQA_METRICS_ADDRESS"):
        worker.start()
    threads = {thread.name for thread in set(threading.enumerate()) - before}
    # the second renews leases, and with them this worker's entry
    assert ("janitor" in threads, "leases" in threads) == (True, False)
    assert not redis.exists(WORKERS)
