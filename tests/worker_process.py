"""A real Celery worker process that a test starts and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vqa.ledger.ledger import Ledger

ROOT = Path(__file__).parent.parent
TINY = ROOT / "models" / "tiny-vl"


class WorkerProcess:
    """One Celery worker process, started as a supervisor starts one; its output goes to the file `log`."""

    #: Python's arguments before the app and Celery's own
    program: tuple[str, ...] = (
        *("-W", "error", "-W", "ignore:You're running the worker with superuser"),
        *("-m", "workers.celery_worker"),
    )

    app = "workers.app"

    def __init__(self, redis_url: str, name: str, log: Path, **variables: str) -> None:
        self.name = name
        self.log = log
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
        environment |= {"VQA_REDIS_URL": redis_url, "VQA_CARDS": "cpu", "VQA_ENGINE": "echo", "OMP_NUM_THREADS": "2"}
        command = [sys.executable, *self.program, self.app, "-n", f"{name}@%h"]
        self.started_at = time.monotonic()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle"],
                env=environment | variables,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_ready(self, ledger: Ledger, timeout_s: float = 90) -> None:
        until = time.monotonic() + timeout_s
        while not self._is_listed(ledger):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"{self.name} is not ready:\n{self.log.read_text()}"
            time.sleep(0.05)

    def _is_listed(self, ledger: Ledger) -> bool:
        # a killed worker of this name may still be listed, and has not renewed since
        living = ledger.workers(within_s=time.monotonic() - self.started_at)
        return any(worker.name.startswith(self.name + "@") for worker in living)

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
