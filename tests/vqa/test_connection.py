"""Calls to Redis under trouble: how long they are tried, and what is not tried again."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.exceptions import AuthenticationError, ConnectionError, ReadOnlyError, ResponseError, TimeoutError

from tests.proxy import Proxy
from tests.redis_server import RedisServer
from vqa.connection import connect, connect_async
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


def _settings(port: int, login: str = "") -> QueueSettings:
    return QueueSettings(redis_url=f"redis://{login}127.0.0.1:{port}/0", redis_timeout_s=TIMEOUT_S)


Call = Callable[[QueueSettings, float, str], Any]


def _call(settings: QueueSettings, retry_s: float, command: str) -> Any:
    with connect(settings, retry_s) as connection:
        return connection.execute_command(*command.split())


def _call_async(settings: QueueSettings, retry_s: float, command: str) -> Any:
    async def call() -> Any:
        async with connect_async(settings, retry_s) as connection:
            return await cast(Awaitable[Any], connection.execute_command(*command.split()))  # type: ignore[no-untyped-call]

    return asyncio.run(call())


@pytest.fixture(params=[_call, _call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return cast(Call, request.param)


def _seconds(call: Callable[[], Any], error: type[Exception]) -> float:
    begun = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - begun


def test_a_refused_connection_is_tried_again_for_the_patience_and_no_longer(call: Call, proxy: Proxy) -> None:
    proxy.cut()
    settings = _settings(proxy.port)
    assert _seconds(lambda: call(settings, 0, "PING"), ConnectionError) < 0.5
    # as many tries of each try would be minutes
    assert 1.9 < _seconds(lambda: call(settings, 2, "PING"), ConnectionError) < 2.5


def test_a_silent_redis_is_an_error_after_the_timeout(call: Call, proxy: Proxy) -> None:
    proxy.silence()
    settings = _settings(proxy.port)
    assert TIMEOUT_S <= _seconds(lambda: call(settings, 0, "PING"), TimeoutError) < TIMEOUT_S + 0.5
    assert _seconds(lambda: call(settings, 1, "PING"), TimeoutError) < 1 + TIMEOUT_S + 0.5


def test_a_redis_that_comes_back_within_the_patience_was_not_away(call: Call, proxy: Proxy) -> None:
    proxy.cut()
    threading.Timer(0.7, proxy.restore).start()
    assert call(_settings(proxy.port), 10, "PING") in (True, b"PONG")


def test_what_a_replica_refuses_is_tried_again_on_a_new_connection(
    call: Call, server: RedisServer, proxy: Proxy
) -> None:
    with redis.Redis(port=server.port) as direct:
        direct.replicaof("127.0.0.1", 1)
        assert _seconds(lambda: call(_settings(proxy.port), 0, "SET k v"), ReadOnlyError) < 0.5
        threading.Timer(0.7, direct.replicaof, ["NO", "ONE"]).start()
        assert call(_settings(proxy.port), 10, "SET k v") in (True, b"OK")


def test_replicas_that_are_missing_are_waited_for(call: Call, server: RedisServer) -> None:
    with redis.Redis(port=server.port) as direct:
        direct.config_set("min-replicas-to-write", 1)
        try:
            waits = [_seconds(lambda: call(_settings(server.port), 1, "SET k v"), ResponseError) for _ in range(2)]
            # the shorter one: a busy machine may begin an attempt late
            assert 0.9 < min(waits) < 1.5
        finally:
            back = threading.Timer(0.7, direct.config_set, ["min-replicas-to-write", 0])
            back.start()
        assert call(_settings(server.port), 10, "SET k v") in (True, b"OK")
        back.join()


def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again(call: Call, proxy: Proxy) -> None:
    settings = _settings(proxy.port)
    call(settings, 0, "SET text v")
    assert _seconds(lambda: call(settings, 10, "INCR text"), ResponseError) < 0.5
    assert _seconds(lambda: call(_settings(proxy.port, "nobody:secret@"), 10, "PING"), AuthenticationError) < 0.5


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_ones(proxy: Proxy) -> None:
    with connect(_settings(proxy.port), retry_s=0) as connection:
        connection.mset({"first": 1, "second": 2})
        proxy.silence()
        with pytest.raises(TimeoutError):
            connection.get("first")
        proxy.restore()
        assert connection.get("second") == b"2"


def test_many_tasks_share_a_few_connections_and_none_is_refused(tmp_path: Path) -> None:
    async def connections(port: int) -> int:
        async with connect_async(_settings(port)) as redis:
            await asyncio.gather(*(redis.set(f"vqa:test:{number}", number) for number in range(500)))
            return len(await redis.client_list())

    # of its own: connections of other tests may still be open on a shared one
    with RedisServer(tmp_path) as server:
        assert asyncio.run(connections(server.port)) <= 32


def test_a_script_that_redis_has_not_seen_is_loaded_without_waiting(redis_url: str) -> None:
    async def call() -> Any:
        async with connect_async(QueueSettings(redis_url=redis_url), retry_s=30) as redis, asyncio.timeout(5):
            return await redis.register_script("return 7")()

    assert asyncio.run(call()) == 7
