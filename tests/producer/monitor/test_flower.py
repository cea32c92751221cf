"""Flower, started as the demo and the container start it."""

import base64
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.demo.redis_server import free_port

# a comma is where Flower's own variable would split it
PASSWORD = "with,comma&more"


def status(url: str, credentials: str = "") -> int:
    request = urllib.request.Request(url)
    if credentials:
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        # it holds the connection, and is the reply
        with error:
            return error.code
    except urllib.error.URLError:
        return 0


@pytest.fixture
def pages(redis_url: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = free_port()
    mine = {"VQA_REDIS_URL": redis_url, "VQA_FLOWER_PASSWORD": PASSWORD, "VQA_FLOWER_PORT": str(port)}
    command = [sys.executable, "-m", "producer.monitor.flower"]
    with subprocess.Popen(command, env=os.environ | mine, stdout=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 30
        while status(f"{url}/healthcheck") != 200 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        try:
            yield url, process
        finally:
            process.kill()


def test_pages_ask_for_the_password_which_nobody_else_sees(pages: tuple[str, subprocess.Popen[str]]) -> None:
    url, process = pages
    assert status(f"{url}/workers") == 401
    assert status(f"{url}/api/workers", "vqa:with") == 401
    assert status(f"{url}/workers", f"vqa:{PASSWORD}") == 200
    assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout
    said = process.stdout.read()
    assert url in said
    assert PASSWORD not in said


def test_it_serves_though_nobody_reads_what_it_prints(redis_url: str) -> None:
    port = free_port()
    mine = {"VQA_REDIS_URL": redis_url, "VQA_FLOWER_PASSWORD": PASSWORD, "VQA_FLOWER_PORT": str(port)}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "producer.monitor.flower"]
    with subprocess.Popen(command, env=os.environ | mine, stdout=write, stderr=write) as process:
        os.close(write)
        try:
            end = time.monotonic() + 30
            while status(f"http://127.0.0.1:{port}/healthcheck") != 200:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
        finally:
            process.kill()


def test_it_loads_neither_workers_nor_torch() -> None:
    check = "import sys, producer.monitor.flower; sys.exit(any(name in sys.modules for name in ('workers', 'torch')))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize(("password", "said"), [("", "VQA_FLOWER_PASSWORD"), ("short", "VQA_FLOWER_PASSWORD")])
def test_without_a_good_password_it_does_not_start(password: str, said: str) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "producer.monitor.flower"],
        env=os.environ | {"VQA_FLOWER_PASSWORD": password},
        capture_output=True,
        text=True,
    )
    assert started.returncode == 2
    assert said in started.stderr
