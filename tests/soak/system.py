"""What a soak runs on: Redis with its append-only file, two supervisors with an echo worker each, and a gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from redis import Redis

from tests.chaos.guard import Guard
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings

#: supervisors; workers of the first are killed, the second is left alone
NAMES = ("killed", "calm")

#: times are short, so that what expires does so many times in a run
QUEUE = {
    "VQA_RESULT_TTL_S": "120",
    "VQA_BATCH_TTL_S": "120",
    "VQA_DEAD_TTL_S": "120",
    "VQA_IMAGES_KEEP_S": "60",
}
_WORKER = {
    "VQA_ENGINE": "echo",
    "VQA_CARDS": "cpu",
    "VQA_SLOTS": "16",
    "VQA_ECHO_DELAY_S": "0.1",
    "VQA_MEDIA_PROCESSES": "1",
    "VQA_REUSE_TTL_S": "120",
    "VQA_LOG_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
}
_READY_S = 120.0


class System:
    """A context manager; all its processes end with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.supervisors: dict[str, psutil.Process] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            guard = stack.enter_context(Guard())
            self.server = stack.enter_context(RedisServer(self._folder / "redis", append_only=True))
            self.redis = stack.enter_context(Redis(port=self.server.port))
            for name in NAMES:
                process = self._start_supervisor(name)
                guard.watch(process.pid)
                self.supervisors[name] = psutil.Process(process.pid)
                stack.callback(_terminate, process)
            variables = {**QUEUE, "VQA_FILES_TTL_S": "300"}
            self.gateway = GatewayProcess(self.server.url, self._folder / "gateway", **variables)
            guard.watch(self.gateway.process.pid)
            stack.callback(self.gateway.stop)
            self.wait_ready()
            self.gateway.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def settings(self) -> QueueSettings:
        fields: dict[str, Any] = {name.removeprefix("VQA_").lower(): value for name, value in QUEUE.items()}
        return QueueSettings(redis_url=self.server.url, **fields)

    def wait_ready(self) -> None:
        """Wait until both workers are listed. Raises AssertionError."""
        ledger, until = Ledger(self.redis), time.monotonic() + _READY_S
        while len(ledger.workers(within_s=5)) < len(NAMES):
            ended = [name for name, process in self.supervisors.items() if not process.is_running()]
            assert not ended, f"{ended} ended; logs in {self._folder}"
            assert time.monotonic() < until, f"workers are not ready; logs in {self._folder}"
            time.sleep(0.2)

    def kill_worker(self) -> bool:
        """SIGKILL the worker of the first supervisor; return False if there is none at the moment."""
        with suppress(psutil.NoSuchProcess):
            for child in self.supervisors[NAMES[0]].children():
                if role(child) == "worker":
                    child.send_signal(signal.SIGKILL)
                    return True
        return False

    def processes(self) -> dict[str, psutil.Process]:
        """Return the processes by name; those that start or end meanwhile may be missing."""
        found = {"redis": psutil.Process(self.server.pid), "gateway": psutil.Process(self.gateway.process.pid)}
        found["load"] = psutil.Process()
        for name, supervisor in self.supervisors.items():
            found[f"supervisor {name}"] = supervisor
            with suppress(psutil.NoSuchProcess):
                for child in supervisor.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        found[f"{role(child)} {name}"] = child
        return found

    def _start_supervisor(self, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workers", "--name", name],
                env=_environment(self.server.url),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )


def role(process: psutil.Process) -> str:
    """Name a process by the module or script that it runs."""
    command = process.cmdline()
    for word, name in (("decoder_child", "decoder"), ("workers.app", "worker")):
        if any(word in each for each in command):
            return name
    module = next((each for each in command[1:] if "/" in each or "." in each), "other")
    return Path(module).stem


def _environment(url: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
    return own | QUEUE | _WORKER | {"VQA_REDIS_URL": url}


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
