"""Two gateways on one queue with API keys, and clients that hold keys; each test makes keys of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import httpx2
import pytest
from redis import Redis

from producer.gateway.access.caller import Allowance
from producer.gateway.access.key_record import KeyRecord
from producer.gateway.access.keys import Keys
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.jobs.lane import LANES, Lane


class Holder(httpx2.Client):
    """A client that sends its key with every request."""

    def __init__(self, url: str, key: str, record: KeyRecord) -> None:
        super().__init__(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self.key = key
        self.record = record

    def ask(self, text: str = "?", *, later: bool = False, seconds: float = 0, **fields: Any) -> httpx2.Response:
        """Ask; with `later` the answer is 202 at once. The worker takes `seconds`."""
        body = {"messages": [{"role": "user", "content": text}], "metadata": {"echo_delay_s": str(seconds)}, **fields}
        headers = {"Prefer": "respond-async"} if later else {}
        return self.post("/v1/chat/completions", json=body, headers=headers)


#: `holder(in_flight=2)`: fields of an Allowance, or `tenant`, `lanes`, `expires`, `gateway` (0 or 1)
MakeHolder = Callable[..., Holder]


@pytest.fixture(scope="session")
def keyed_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis with API keys, apart from that of the shared gateway, which has none."""
    with RedisServer(tmp_path_factory.mktemp("keyed-redis")) as server, Redis(port=server.port) as connection:
        Keys(connection).create("the first")
        yield connection


@pytest.fixture(scope="session")
def gateways(keyed_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GatewayProcess]]:
    """Two gateways, and a worker that echoes."""
    url = f"redis://127.0.0.1:{keyed_redis.get_connection_kwargs()['port']}/0"
    folder = tmp_path_factory.mktemp("gateways")
    worker = WorkerProcess(url, "echo", folder / "worker.log", VQA_SLOTS="32")
    gateways = [GatewayProcess(url, folder / str(number)) for number in range(2)]
    try:
        for gateway in gateways:
            gateway.wait_ready()
        yield gateways
    finally:
        for gateway in gateways:
            gateway.stop()
        # what tests left running would take its time
        worker.kill()


@pytest.fixture(scope="session")
def keys(keyed_redis: Redis) -> Keys:
    return Keys(keyed_redis)


@pytest.fixture
def holder(gateways: list[GatewayProcess], keys: Keys) -> Iterator[MakeHolder]:
    """Make a key and a client that sends it."""
    with ExitStack() as opened:

        def make(
            tenant: str | None = None,
            lanes: tuple[Lane, ...] = LANES,
            expires: datetime | None = None,
            gateway: int = 0,
            **limits: int,
        ) -> Holder:
            key, record = keys.create(
                "test", tenant=tenant, lanes=lanes, expires=expires, allowance=Allowance(**limits)
            )
            return opened.enter_context(Holder(gateways[gateway].url, key, record))

        yield make
