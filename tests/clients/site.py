"""A gateway with API keys before a worker, on a Redis of their own, and OpenAI's clients of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from redis import Redis

from producer.gateway.access.caller import Allowance
from producer.gateway.access.keys import Keys
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.jobs.lane import LANES, Lane


class Site:
    """`site.client(requests_per_minute=1)`: a client with a key of its own; it is closed with the site."""

    def __init__(self, gateway: GatewayProcess, server: RedisServer, redis: Redis, opened: ExitStack) -> None:
        self.gateway = gateway
        self.server = server
        self.url = f"{gateway.url}/v1"
        self.redis = redis
        self.keys = Keys(redis)
        self._opened = opened

    def client(self, lanes: tuple[Lane, ...] = LANES, tenant: str | None = None, **limits: int) -> OpenAI:
        key, _ = self.keys.create("test", tenant=tenant, lanes=lanes, allowance=Allowance(**limits))
        return self.client_with(api_key=key)

    def client_with(self, api_key: str, **options: Any) -> OpenAI:
        """A client that does not try again unless told."""
        return self._opened.enter_context(
            OpenAI(**{"base_url": self.url, "api_key": api_key, "max_retries": 0, "timeout": 60, **options})
        )


@contextmanager
def open_site(folder: Path, gateway_variables: dict[str, str], **worker_variables: str) -> Iterator[Site]:
    """Start all of it; the worker gets ready while the gateway starts."""
    with (
        RedisServer(folder / "redis") as server,
        Redis.from_url(server.url) as redis,
        ExitStack() as opened,
    ):
        Keys(redis).create("the first")
        worker = WorkerProcess(server.url, "worker", folder / "worker.log", **worker_variables)
        # what tests left running would take its time
        opened.callback(worker.kill)
        gateway = GatewayProcess(server.url, folder / "gateway", **gateway_variables)
        opened.callback(gateway.stop)
        # a busy machine loads a model for a while
        gateway.wait_ready(110)
        yield Site(gateway, server, redis, opened)
