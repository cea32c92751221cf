"""A Redis with trouble, and calls of it by both clients."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from tests.proxy import Proxy
from tests.redis_server import RedisServer
from vqa.redis.connection import connect, connect_async
from vqa.settings import QueueSettings

TIMEOUT_S = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def settings_for(port: int, login: str = "", timeout_s: float = TIMEOUT_S) -> QueueSettings:
    return QueueSettings(redis_url=f"redis://{login}127.0.0.1:{port}/0", redis_timeout_s=timeout_s)


def patient_settings(port: int, login: str = "") -> QueueSettings:
    """For tests without silence: a busy machine may be silent for TIMEOUT_S."""
    return settings_for(port, login, timeout_s=30)


Call = Callable[..., Any]


def call_sync(
    settings: QueueSettings, retry_s: float, command: str, once_connected: Callable[[], None] | None = None
) -> Any:
    with connect(settings, retry_s) as connection:
        if once_connected:
            connection.ping()
            once_connected()
        return connection.execute_command(*command.split())


def call_async(
    settings: QueueSettings, retry_s: float, command: str, once_connected: Callable[[], None] | None = None
) -> Any:
    async def call() -> Any:
        async with connect_async(settings, retry_s) as connection:
            if once_connected:
                await cast(Awaitable[Any], connection.ping())
                once_connected()
            return await cast(
                Awaitable[Any], connection.execute_command(*command.split())
            )  # redis-py has no type for it

    return asyncio.run(call())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return cast(Call, request.param)
