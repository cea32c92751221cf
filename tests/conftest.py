"""A real Redis for every test, and real worker processes for those that ask for one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer.embedded import EmbeddedRedis
from vqa.connection import connect
from vqa.ledger import Ledger
from vqa.settings import QueueSettings

ROOT = Path(__file__).parent.parent
TINY = ROOT / "models" / "tiny-vl"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VQA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The url of a server of this run's own; no server is a failure, never a skip."""
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def redis(redis_server: str) -> Iterator[Redis]:
    """The server, empty."""
    with connect(QueueSettings(redis_url=redis_server)) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def redis_url(redis_server: str, redis: Redis) -> str:
    """Where the empty server is."""
    return redis_server


@pytest.fixture
def queue_settings(redis_url: str) -> QueueSettings:
    return QueueSettings(redis_url=redis_url)


class WorkerProcess:
    """One Celery worker process, started as a user would without the supervisor; its log is in a file."""

    def __init__(self, redis_url: str, name: str, log: Path, **variables: str) -> None:
        self.name = name
        self.log = log
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
        environment |= {"VQA_REDIS_URL": redis_url, "VQA_CARDS": "cpu", "VQA_ENGINE": "echo", "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-W", "error", "-W", "ignore:You're running the worker with superuser"]
        command += ["-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@%h"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle"],
                env=environment | variables,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_ready(self, ledger: Ledger, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while not any(worker.name.startswith(self.name + "@") for worker in ledger.workers(within_s=5)):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"{self.name} is not ready:\n{self.log.read_text()}"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.kill()


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(redis_url: str, queue_settings: QueueSettings, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers on this test's queue: `start_worker("a", VQA_ECHO_DELAY_S="1")`; they end with the test."""
    started: list[WorkerProcess] = []
    with connect(queue_settings) as connection:

        def start(name: str = "worker", ready: bool = True, **variables: str) -> WorkerProcess:
            worker = WorkerProcess(redis_url, name, tmp_path / f"{name}.log", **variables)
            started.append(worker)
            if ready:
                worker.wait_ready(Ledger(connection))
            return worker

        yield start
        for worker in started:
            worker.stop()
