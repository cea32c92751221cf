"""Connections to Redis: what they notice of the other host, and how calls share them."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import TimeoutError

from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.vqa.redis.conftest import call_sync, patient_settings, settings_for
from vqa.celery import make_app
from vqa.redis.connection import connect, connect_async, lost_host_options
from vqa.settings import QueueSettings


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_ones(server: RedisServer, proxy: Proxy) -> None:
    with redis.Redis(port=server.port) as direct:
        direct.mset({"first": 1, "second": 2})
    with connect(settings_for(proxy.port), retry_s=0) as connection:
        # so that it is connected before the silence; a busy machine may be too late for the first tries
        _succeeds(connection.ping)
        proxy.silence()
        with pytest.raises(TimeoutError):
            connection.get("first")
        proxy.restore()
        assert _succeeds(lambda: connection.get("second")) == b"2"


def _succeeds(call: Callable[[], Any]) -> Any:
    for _ in range(20):
        with suppress(TimeoutError):
            return call()
    pytest.fail("each of 20 calls took too long")


def test_a_connection_without_traffic_asks_whether_the_other_host_is_there(server: RedisServer) -> None:
    async def of_asyncio() -> list[int]:
        async with connect_async(patient_settings(server.port)) as client:
            connection: Any = await client.connection_pool.get_connection()
            return _lost_after(connection._writer.get_extra_info("socket"))

    def of_kombu() -> list[int]:
        with make_app(patient_settings(server.port)).connection_for_write() as connection:
            client: Any = connection.default_channel.client
            return _lost_after(client.connection_pool.get_connection()._sock)

    with connect(patient_settings(server.port)) as client:
        connection: Any = client.connection_pool.get_connection()
        assert _lost_after(connection._sock) == asyncio.run(of_asyncio()) == of_kombu() == [1, 3, 1, 3, 6000]


def _lost_after(of: socket.socket) -> list[int]:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    keepalive = of.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [keepalive, *(of.getsockopt(socket.IPPROTO_TCP, name) for name in names)]


@pytest.mark.parametrize("kind", ["unknown to Python", "refused by the kernel"])
def test_options_that_a_system_does_not_have_are_left_out(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "unknown to Python":
        monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    else:
        monkeypatch.setattr(socket, "TCP_USER_TIMEOUT", 9999)
    assert len(lost_host_options()) == 3
    assert call_sync(patient_settings(server.port), 0, "PING")


def test_many_tasks_share_a_few_connections_and_none_is_refused(tmp_path: Path) -> None:
    async def connections(port: int) -> int:
        async with connect_async(patient_settings(port)) as redis:
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
