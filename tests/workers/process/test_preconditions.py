"""What is checked before a model is loaded: Redis, the worker's name, open files and packages."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from producer.demo.redis_server import free_port
from tests.redis_server import RedisServer
from tests.worker_process import ROOT
from vqa.errors import NotReady
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import REDIS_ERRORS, connect
from vqa.redis.outage import RedisOutage
from vqa.settings import QueueSettings
from workers.process.preconditions import require_own_name, wait_for_redis

LEASE_S = 0.6
WAIT_S = 60.0


def test_a_worker_that_waits_for_redis_says_so_at_once_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    settings = QueueSettings(redis_url=f"redis://:secret@127.0.0.1:{port}/0")
    with connect(settings, retry_s=0) as redis:
        waits = threading.Thread(target=wait_for_redis, args=(redis, settings, lambda: None), daemon=True)
        waits.start()
        until = time.monotonic() + WAIT_S
        while not caplog.records:
            assert time.monotonic() < until
        time.sleep(0.5)
        with RedisServer(tmp_path / "redis", "requirepass secret", port=port):
            waits.join(WAIT_S)
            assert not waits.is_alive()
    first, last = (record.getMessage() for record in caplog.records)
    assert first == f"waiting for Redis at 127.0.0.1:{port}: Connection refused (VQA_REDIS_URL)"
    assert last.startswith(f"Redis at 127.0.0.1:{port} answers after ")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://no-host.invalid:6379/0", "Redis at no-host.invalid:6379: its host name is unknown"),
        ("sentinel://127.0.0.1:1/0?master=m", "no Sentinel answers and knows a master of this name"),
        ("redis://:wrong@{place}/0", "invalid username-password pair or user is disabled"),
    ],
)
def test_it_says_why(redis_url: str, caplog: pytest.LogCaptureFixture, url: str, said: str, redis: Redis) -> None:
    place = redis_url.removeprefix("redis://").partition("/")[0].rpartition("@")[2]
    if "wrong" in url:
        redis.execute_command("ACL", "SETUSER", "default", ">right", "resetpass", ">right")
    settings = QueueSettings(redis_url=url.format(place=place))
    try:
        with connect(settings, retry_s=0) as connection, pytest.raises(REDIS_ERRORS) as caught:
            connection.ping()
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "nopass")
    RedisOutage(settings).failed(caught.value)
    assert said in caplog.text


@contextmanager
def renewing(ledger: Ledger, name: str) -> Iterator[None]:
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_S / 3):
            ledger.renew(name, [], LEASE_S, {"slots": 4, "model": "tiny"})

    ledger.renew(name, [], LEASE_S, {"slots": 4, "model": "tiny"})
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_second_worker_of_a_living_ones_name_is_refused_and_told_of_the_first(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(redis)
    with renewing(ledger, "cpu@vm"):
        with pytest.raises(NotReady, match=r"a worker named cpu@vm is up already \(tiny, 4 slots\).*--name"):
            require_own_name(redis, "cpu@vm", LEASE_S, wait_s=1)
        require_own_name(redis, "card0@vm", LEASE_S, wait_s=1)
    assert "a worker named cpu@vm is up already (tiny, 4 slots): waiting 1 s for it to stop" in caplog.text


def test_a_killed_workers_name_is_free_at_once_for_the_next_look(redis: Redis) -> None:
    Ledger(redis).renew("cpu@vm", [], LEASE_S, {})
    require_own_name(redis, "cpu@vm", LEASE_S, wait_s=0)
    # a worker looks twice: before it loads its model, and when it is ready
    assert Ledger(redis).workers(60) == []


def test_a_name_is_free_once_the_worker_that_had_it_has_drained(redis: Redis) -> None:
    ledger = Ledger(redis)
    checks = threading.Thread(target=require_own_name, args=(redis, "cpu@vm", LEASE_S, WAIT_S))
    with renewing(ledger, "cpu@vm"):
        checks.start()
        checks.join(2 * LEASE_S)
        assert checks.is_alive()
    ledger.forget_worker("cpu@vm")
    checks.join(WAIT_S)
    assert not checks.is_alive()


FILES = """
import resource, sys
from vqa.errors import NotReady
from workers.process.preconditions import require_open_files

try:
    require_open_files(threads=20, decoders=2)
except NotReady as error:
    sys.exit(str(error))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def with_open_files(soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    assert with_open_files(64, 200).stdout == "200\n"


def test_too_few_open_files_are_refused_with_the_number_needed() -> None:
    done = with_open_files(64, 100)
    assert done.returncode == 1
    assert "may open 100 files, and 20 threads and 2 decoders need 132" in done.stderr
    assert "ulimit" in done.stderr


#: as where only `pip install .` was run
PRODUCER = """
import runpy, sys

sys.modules.update(dict.fromkeys(["torch", "transformers", "huggingface_hub"]))
sys.argv = [sys.argv[1], *sys.argv[2:]]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("command", [["workers", "--cards", "cpu"], ["workers.tune", "examples/images"]])
def test_a_producers_installation_says_what_a_worker_needs(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER, *command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert done.stderr.startswith("vqa: NotReady: not installed: torch, transformers, huggingface_hub.")
    assert "pip install '.[worker]' -c constraints.txt" in done.stderr
    assert len(done.stderr.splitlines()) == 1
