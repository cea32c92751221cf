"""The producer processes: started, killed and restarted with their records."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.guard import Guard
from tests.chaos.plan import Plan
from tests.worker_process import ROOT


class Producers:
    def __init__(self, plan: Plan, folder: Path, guard: Guard, redis_url: str) -> None:
        self._plan = plan
        self._folder = folder
        self._guard = guard
        self._redis_url = redis_url
        self._names = [f"p{number}" for number in range(1, plan.producers + 1)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def __enter__(self) -> Self:
        for name in self._names:
            self._start(name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
            self._guard.forget(process.pid)

    @property
    def records(self) -> list[Path]:
        return [self._folder / f"{name}.jsonl" for name in self._names]

    def kill(self, random: random.Random) -> str | None:
        """SIGKILL one and restart it; return its name, or None if the producers are stopping."""
        with self._lock:
            if self._stopping:
                return None
            name = random.choice(self._names)
            self._processes[name].kill()
            self._processes[name].wait()
            self._guard.forget(self._processes[name].pid)
            self._start(name)
        return name

    def check(self) -> str | None:
        """Return a message if a producer ended by itself."""
        with self._lock:
            for name, process in self._processes.items():
                if process.poll() not in (None, 0):
                    return f"producer {name} ended with status {process.returncode}; see {self._folder / name}.log"
        return None

    def stop(self, timeout_s: float) -> list[str]:
        """Stop submitting and wait until all outcomes are collected; return a line for each producer still waiting."""
        with self._lock:
            self._stopping = True
            for process in self._processes.values():
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + timeout_s
        while any(process.poll() is None for process in self._processes.values()) and time.monotonic() < until:
            time.sleep(0.05)
        return [
            f"producer {name} still waits for answers {timeout_s:.0f} s after its last job"
            for name, process in self._processes.items()
            if process.poll() is None
        ]

    def _start(self, name: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VQA_")}
        environment |= {"VQA_REDIS_URL": self._redis_url, "VQA_REDIS_TIMEOUT_S": str(self._plan.redis_timeout_s)}
        rate, record = self._plan.rate / self._plan.producers, self._folder / f"{name}.jsonl"
        command = [sys.executable, "-W", "error", "-m", "tests.chaos.producer", name, str(self._plan.seed), str(rate)]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command, self._plan.mix, str(record)],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._guard.watch(self._processes[name].pid)
