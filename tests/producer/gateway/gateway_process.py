"""A real `vqa gateway` that a test starts and ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.worker_process import ROOT


class GatewayProcess:
    """`vqa gateway` on a free port; `url` is where. Its log and its access log are files in `folder`."""

    def __init__(self, redis_url: str, folder: Path, *arguments: str, listens: bool = True, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self._access = folder / "log", folder / "access.jsonl"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
        environment |= {"VQA_REDIS_URL": redis_url, "VQA_GATEWAY_PORT": "0", "PYTHONWARNINGS": "error"}
        with self.log.open("ab") as log, self._access.open("ab") as access:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "producer.cli.main", "gateway", *arguments],
                env=environment | variables,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=access,
                stderr=log,
                process_group=0,
            )
        self.url = ""
        try:
            if listens:
                self.url = self._wait_listening()
                self._wait_answering()
        except BaseException:
            # nobody else would, and the warning of it would fail another test
            self.kill()
            raise

    def _wait_listening(self, timeout_s: float = 60) -> str:
        until = time.monotonic() + timeout_s
        while not (said := re.search(r"listening on (\S+)", self.log.read_text())):
            assert self.process.poll() is None, f"the gateway ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"the gateway does not listen:\n{self.log.read_text()}"
            time.sleep(0.02)
        return said[1]

    def _wait_answering(self, timeout_s: float = 60) -> None:
        """Wait for the process that serves: the one that listens starts it, and requests wait for it until then."""
        try:
            httpx2.get(f"{self.url}/healthz", timeout=timeout_s)
        except httpx2.TransportError as error:
            raise AssertionError(f"the gateway does not answer ({error!r}):\n{self.log.read_text()}") from error

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until Redis and a worker are there."""
        until = time.monotonic() + timeout_s
        while (reply := httpx2.get(f"{self.url}/readyz", timeout=timeout_s)).status_code != 200:
            assert time.monotonic() < until, reply.text
            time.sleep(0.05)

    def access_log(self) -> list[dict[str, Any]]:
        """Return the lines so far."""
        return [json.loads(line) for line in self._access.read_text().splitlines()]

    def wait_logged(self, request_id: str, timeout_s: float = 10) -> dict[str, Any]:
        """Return the access log's line of a request, which is written a moment after its response."""
        until = time.monotonic() + timeout_s
        while not (found := [line for line in self.access_log() if line["request_id"] == request_id]):
            assert time.monotonic() < until, f"no line of {request_id}"
            time.sleep(0.01)
        [line] = found
        return line

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send a signal, and wait until it has ended; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.kill()


StartGateway = Callable[..., GatewayProcess]
