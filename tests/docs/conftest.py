"""A queue with a worker and a gateway, for the code in the documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


@dataclass(frozen=True)
class Service:
    redis_url: str
    gateway_url: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with RedisServer(folder / "redis") as server:
        worker = WorkerProcess(server.url, "docs", folder / "worker.log")
        gateway = GatewayProcess(server.url, folder / "gateway")
        try:
            with connect(QueueSettings(redis_url=server.url)) as connection:
                worker.wait_ready(Ledger(connection))
            gateway.wait_ready()
            yield Service(server.url, gateway.url)
        finally:
            gateway.stop()
            worker.stop()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the code runs, with the files that the documents name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
