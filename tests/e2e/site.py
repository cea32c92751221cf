"""A worker that the tests of a module share, on a Redis of its own that nothing empties."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from producer import Client
from producer.demo.redis_server import EmbeddedRedis
from tests.worker_process import WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


@dataclass(frozen=True)
class Site:
    redis_url: str
    client: Client
    worker: WorkerProcess


@contextmanager
def open_site(folder: Path, **variables: str) -> Iterator[Site]:
    """Yield once the worker, which has these environment variables, is ready."""
    with EmbeddedRedis() as server, site_on(server.url, folder, **variables) as site:
        yield site


@contextmanager
def site_on(redis_url: str, folder: Path, **variables: str) -> Iterator[Site]:
    settings = QueueSettings(redis_url=redis_url)
    worker = WorkerProcess(redis_url, "worker", folder / "worker.log", **variables)
    try:
        with Client(settings) as client, connect(settings) as redis:
            worker.wait_ready(Ledger(redis))
            yield Site(redis_url, client, worker)
    finally:
        worker.stop()
