"""Calls of a Redis whose master changes meanwhile."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.redis_server import RedisServer
from tests.vqa.redis.conftest import Call
from vqa.settings import QueueSettings


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[tuple[RedisServer, str]]:
    """A master with a replica and a Sentinel, which sets the replica up as master once the master hangs; its url."""
    master = RedisServer(tmp_path / "master")
    replica = RedisServer(tmp_path / "replica", f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0")
    watch = [f"sentinel monitor vqa 127.0.0.1 {master.port} 1", "sentinel down-after-milliseconds vqa 1000"]
    sentinel = RedisServer(tmp_path / "sentinel", *watch, arguments=["--sentinel"])
    with master, replica, redis.Redis(port=replica.port) as direct:
        _until(lambda: direct.info("replication")["master_link_status"] == "up")
        with sentinel, redis.Redis(port=sentinel.port) as asked:
            _until(lambda: asked.sentinel_slaves("vqa"))
            yield master, f"sentinel://127.0.0.1:{sentinel.port}/0?master=vqa"


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_call_that_is_tried_again_goes_to_the_new_master(call: Call, failover: tuple[RedisServer, str]) -> None:
    master, url = failover
    settings = QueueSettings(redis_url=url, redis_timeout_s=1)
    assert call(settings, 60, "SET k v", master.pause) in (True, b"OK")
