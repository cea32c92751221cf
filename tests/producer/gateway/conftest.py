"""A real gateway, Redis and echo worker, shared by a run's tests; gateways of one test's own; the app in process.

- `gateway`, `http`: shared, so a test leaves its queue as it found it: no FLUSHALL, no API keys, ids of its own
- `start_gateway`: on the empty Redis of the test (`redis`, `redis_url`), with settings of its own
- `asgi`: the app in this process, for what concerns neither a socket nor a second process
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from producer.gateway.app import create_app
from tests.producer.gateway.gateway_process import GatewayProcess, StartGateway
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

#: `async with asgi(test_models=True) as http: await http.get("/healthz")`
Asgi = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture(scope="session")
def shared_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis of the shared gateway, apart from that of single tests, which they empty."""
    with RedisServer(tmp_path_factory.mktemp("shared-redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def echo_worker(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A ready worker whose answers repeat the question."""
    worker = WorkerProcess(shared_redis_url, "echo", tmp_path_factory.mktemp("echo-worker") / "log")
    try:
        with connect(QueueSettings(redis_url=shared_redis_url)) as connection:
            worker.wait_ready(Ledger(connection))
        yield worker
    finally:
        worker.stop()


@pytest.fixture(scope="session")
def gateway(
    shared_redis_url: str, echo_worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway without API keys, before `echo_worker`; it answers the test models, too."""
    folder = tmp_path_factory.mktemp("gateway")
    gateway = GatewayProcess(shared_redis_url, folder, VQA_GATEWAY_TEST_MODELS="1")
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def http(gateway: GatewayProcess) -> Iterator[httpx2.Client]:
    """A client of the shared gateway."""
    with httpx2.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def start_gateway(redis_url: str, tmp_path: Path) -> Iterator[StartGateway]:
    """Start gateways on this test's queue: `start_gateway("--processes", "2", VQA_GATEWAY_DRAIN_S="1")`."""
    started: list[GatewayProcess] = []

    def start(*arguments: str, listens: bool = True, redis: str = redis_url, **variables: str) -> GatewayProcess:
        folder = tmp_path / f"gateway-{len(started)}"
        started.append(GatewayProcess(redis, folder, *arguments, listens=listens, **variables))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture
def asgi(queue_settings: QueueSettings) -> Asgi:
    """The app in this process, on the test's own Redis; keyword arguments are gateway settings."""

    @asynccontextmanager
    async def client(files: FilesSettings | None = None, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
        app = create_app(queue_settings, GatewaySettings(**settings), files or FilesSettings())
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as http,
        ):
            yield http

    return client
