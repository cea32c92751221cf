"""How a gateway starts, ends, and is kept running."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest

from producer import Client
from tests.producer.conftest import wait_until
from tests.producer.gateway.conftest import StartGateway
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, StartWorker


def fetch(url: str) -> httpx2.Response:
    """Wait as long as a busy machine needs to start the process that answers."""
    return httpx2.get(url, timeout=60)


def children(gateway_pid: int) -> list[psutil.Process]:
    return psutil.Process(gateway_pid).children()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_an_idle_gateway(start_gateway: StartGateway, number: signal.Signals, status: int) -> None:
    gateway = start_gateway()
    assert fetch(f"{gateway.url}/healthz").status_code == 200
    soft, hard = psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536)
    assert gateway.stop(number, timeout_s=10) == status
    assert "Traceback" not in gateway.log.read_text()


def test_a_gateway_starts_before_redis_and_says_that_it_waits(start_gateway: StartGateway, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "late")
    gateway = start_gateway(redis=server.url)
    assert fetch(f"{gateway.url}/healthz").status_code == 200
    reply = fetch(f"{gateway.url}/readyz")
    assert (reply.status_code, reply.json()["reasons"]) == (503, ["Redis does not answer"])
    assert int(reply.headers["Retry-After"]) >= 1
    wait_until(lambda: "waiting for" in gateway.log.read_text(), "the log names Redis")
    with server:
        wait_until(lambda: fetch(f"{gateway.url}/readyz").json()["reasons"] == ["no worker is ready"], "Redis is found")
        wait_until(lambda: "answers after" in gateway.log.read_text(), "the log says so")


def test_an_address_for_other_machines_needs_a_key(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--address", "0.0.0.0", listens=False)
    assert gateway.process.wait(30) == 2
    [line] = gateway.log.read_text().splitlines()
    assert "VQA_GATEWAY_OPEN=1" in line
    assert "vqa keys create" in line
    assert fetch(f"{start_gateway('--address', '0.0.0.0', '--open').url}/v1/models").status_code == 200


def test_a_gateway_that_finds_no_key_once_redis_is_there_ends(start_gateway: StartGateway, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "late")
    gateway = start_gateway("--address", "0.0.0.0", redis=server.url)
    assert fetch(f"{gateway.url}/v1/models").status_code == 401
    with server:
        assert gateway.process.wait(30) == 2
    assert "VQA_GATEWAY_OPEN=1" in gateway.log.read_text()


def test_a_port_in_use_is_one_line(start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = start_gateway("--port", str(taken.getsockname()[1]), listens=False)
        assert gateway.process.wait(30) == 2
    [line] = gateway.log.read_text().splitlines()
    assert "Address already in use" in line
    assert "VQA_GATEWAY_PORT" in line


def test_a_wrong_setting_is_one_line(start_gateway: StartGateway) -> None:
    gateway = start_gateway(listens=False, VQA_FILES_MAX_BYTES="many")
    assert gateway.process.wait(30) == 2
    [line] = gateway.log.read_text().splitlines()
    assert "VQA_FILES_MAX_BYTES" in line


def test_an_installation_without_the_extra_names_it() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from producer.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, "gateway"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (2, "vqa: not installed: uvicorn; pip install 'vqa-queue[gateway]'\n")


def test_processes_share_a_port_and_a_dead_one_is_replaced(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--processes", "2")
    parent = gateway.process.pid
    wait_until(lambda: len(children(parent)) == 2, "both run")
    [first, second] = children(parent)
    assert fetch(f"{gateway.url}/healthz").status_code == 200
    first.kill()
    wait_until(lambda: first not in children(parent) and len(children(parent)) == 2, "another runs")
    assert second in children(parent)
    assert "process 1 ended with status -9" in gateway.log.read_text()
    assert fetch(f"{gateway.url}/healthz").status_code == 200
    both = children(parent)
    assert gateway.stop(timeout_s=10) == 0
    assert not any(child.is_running() for child in both)


def test_processes_end_with_a_parent_that_is_killed(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--processes", "2")
    wait_until(lambda: len(children(gateway.process.pid)) == 2, "both run")
    assert fetch(f"{gateway.url}/healthz").status_code == 200
    both = children(gateway.process.pid)
    gateway.kill()
    assert psutil.wait_procs(both, timeout=20)[1] == []


def test_requests_in_progress_end_before_the_gateway(
    start_gateway: StartGateway, start_worker: StartWorker, client: Client
) -> None:
    gateway = start_gateway()
    start_worker(VQA_ECHO_DELAY_S="2")
    wait_until(lambda: fetch(f"{gateway.url}/readyz").status_code == 200, "it is ready")
    with ThreadPoolExecutor(2) as threads:
        whole, streamed = (threads.submit(ask, gateway.url, stream) for stream in (False, True))
        wait_until(lambda: client.counts()["interactive"]["leased"] == 2, "both run")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(gateway.url), "it stops")
        assert "echo:" in whole.result().json()["choices"][0]["message"]["content"]
        assert streamed.result().text.endswith("data: [DONE]\n\n")
    assert gateway.stop(timeout_s=10) == 0


def ask(url: str, stream: bool) -> httpx2.Response:
    body = {"model": "any", "stream": stream, "messages": [{"role": "user", "content": "?"}]}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_requests_that_do_not_end_are_cut_off_after_the_drain_time(start_gateway: StartGateway) -> None:
    gateway = start_gateway(VQA_GATEWAY_DRAIN_S="0.5")
    with unfinished_request(gateway.url) as connection:
        assert gateway.stop(timeout_s=10) == 0
        assert b" 503 " in connection.recv(1000)
    assert "1 requests did not end in time" in gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


def test_a_stopping_gateway_accepts_nothing_and_a_second_signal_ends_it(start_gateway: StartGateway) -> None:
    gateway = start_gateway(VQA_GATEWAY_DRAIN_S="600")
    with unfinished_request(gateway.url), connected(gateway.url) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in idle.recv(1000)
        gateway.process.send_signal(signal.SIGTERM)
        while rest := idle.recv(1000):
            assert rest == b'{"status":"ok"}'
        wait_until(lambda: refused(gateway.url), "no new connection")
        assert gateway.process.poll() is None
        assert gateway.stop(timeout_s=5) == 0


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def unfinished_request(url: str) -> socket.socket:
    """A request that the gateway reads: its body does not end."""
    assert fetch(f"{url}/healthz").status_code == 200
    connection = connected(url)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    connection.sendall(b"Content-Length: 100000\r\n\r\n{")
    # answered after the first was read
    assert fetch(f"{url}/healthz").status_code == 200
    return connection


def refused(url: str) -> bool:
    try:
        connected(url).close()
    except (ConnectionRefusedError, ConnectionResetError):
        # reset: it was in the queue of the socket that is closed now
        return True
    return False
