"""The workers: real processes, each behind its own proxy to Redis, restarted when they end."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.guard import Guard
from tests.chaos.life import Disturbance, Life
from tests.proxy import Proxy
from tests.worker_process import WorkerProcess

#: between the end of a worker and its next start
_PAUSE_S = 0.3
#: failed starts in a row that no fault of the run explains
_FALSE_STARTS = 5


class ManagedWorker:
    """A worker's name, its proxy, and the process that runs under the name now."""

    def __init__(self, name: str, proxy: Proxy) -> None:
        self.name = name
        self.proxy = proxy
        #: held by the fault that acts on this worker
        self.claimed = threading.Lock()
        self.process: WorkerProcess | None = None
        self.life: Life | None = None
        self.next_start = 0.0
        self.false_starts = 0

    @property
    def is_ready(self) -> bool:
        """Whether the process runs and takes jobs."""
        return self.life is not None and self.life.ready is not None and self.life.end is None

    def signal(self, number: int, intended: str | None = None) -> Life:
        """Send a signal to the process; `intended` says how the signal is meant to end it.

        The process may just have ended by itself; `Life.status` says how it really ended.
        """
        assert self.process is not None
        assert self.life is not None
        if self.process.process.poll() is None:
            if intended:
                self.life.intended = intended
            self.process.process.send_signal(number)
        return self.life


class Fleet:
    """A context manager; worker `w1` gets the first of `variables`, and so on."""

    def __init__(self, folder: Path, guard: Guard, redis_port: int, variables: list[Mapping[str, str]]) -> None:
        self.lives: list[Life] = []
        self.disturbances: list[Disturbance] = []
        self._folder = folder
        self._guard = guard
        self._redis_port = redis_port
        self._variables = {f"w{number}": each for number, each in enumerate(variables, 1)}
        self.workers: list[ManagedWorker] = []
        self._stack = ExitStack()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self.failure: str | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in self._variables:
                self.workers.append(ManagedWorker(name, stack.enter_context(Proxy(self._redis_port))))
            stack.callback(self._end_all)
            self._keeper.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Wait until all workers are ready."""
        until = time.monotonic() + timeout_s
        while not all(worker.is_ready for worker in self.workers):
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"not all workers are ready; see {self._folder}"
            time.sleep(0.05)

    def wait_some_ready(self, timeout_s: float = 60) -> None:
        """Wait until one worker is ready: faults without a worker prove nothing."""
        until = time.monotonic() + timeout_s
        while not any(worker.is_ready for worker in self.workers):
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"no worker was ready for {timeout_s:.0f} s; see {self._folder}"
            time.sleep(0.05)

    @contextmanager
    def claim(self, random: random.Random, timeout_s: float = 60) -> Iterator[ManagedWorker]:
        """Draw a worker that is ready, and keep other faults off it in this block."""
        order = random.sample(self.workers, len(self.workers))
        until = time.monotonic() + timeout_s
        while True:
            for worker in order:
                if worker.is_ready and worker.claimed.acquire(blocking=False):
                    try:
                        yield worker
                    finally:
                        worker.claimed.release()
                    return
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"no worker was ready for {timeout_s:.0f} s; see {self._folder}"
            time.sleep(0.05)

    @contextmanager
    def disturbing(self, kind: str, worker: ManagedWorker | None = None) -> Iterator[Disturbance]:
        """Record that a worker, or all for None, cannot reach Redis or does not run in this block."""
        pid = worker.life.pid if worker and worker.life else None
        disturbance = Disturbance(kind, pid, time.monotonic())
        self.disturbances.append(disturbance)
        try:
            yield disturbance
        finally:
            disturbance.end = time.monotonic()

    def drain(self, timeout_s: float) -> list[str]:
        """Send SIGTERM to all workers and start no new ones; return what went wrong."""
        self._closing.set()
        self._keeper.join()
        for worker in self.workers:
            if worker.life is not None and worker.life.end is None:
                worker.signal(signal.SIGTERM, "drained")
        until = time.monotonic() + timeout_s
        while any(self._runs(worker) for worker in self.workers) and time.monotonic() < until:
            time.sleep(0.05)
        return [
            f"{worker.name} did not end within {timeout_s:.0f} s of SIGTERM"
            for worker in self.workers
            if self._runs(worker)
        ]

    def _runs(self, worker: ManagedWorker) -> bool:
        self._update(worker)
        return worker.life is not None and worker.life.end is None

    def _end_all(self) -> None:
        self._closing.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        for worker in self.workers:
            if self._runs(worker):
                worker.signal(signal.SIGKILL, "killed")
                assert worker.process
                worker.process.process.wait()
                self._update(worker)

    def _keep(self) -> None:
        while not self._closing.wait(0.05):
            for worker in self.workers:
                if not self._runs(worker) and time.monotonic() >= worker.next_start and self.failure is None:
                    self._start(worker)

    def _start(self, worker: ManagedWorker) -> None:
        number = sum(life.name == worker.name for life in self.lives)
        log = self._folder / f"{worker.name}-{number:03}.log"
        url = f"redis://127.0.0.1:{worker.proxy.port}/0"
        worker.process = WorkerProcess(url, worker.name, log, **self._variables[worker.name])
        pid = worker.process.process.pid
        self._guard.watch(pid)
        worker.life = Life(worker.name, pid, log, time.monotonic())
        self.lives.append(worker.life)

    def _update(self, worker: ManagedWorker) -> None:
        life, process = worker.life, worker.process
        if life is None or process is None or life.end is not None:
            return
        if life.ready is None and " is ready: " in life.log.read_text(errors="replace"):
            life.ready, worker.false_starts = time.monotonic(), 0
        status = process.process.poll()
        if status is None:
            return
        life.status, life.end = status, time.monotonic()
        self._guard.forget(life.pid)
        worker.next_start = life.end + _PAUSE_S
        worker.false_starts += life.ready is None and life.intended is None
        if worker.false_starts >= _FALSE_STARTS:
            self.failure = f"{worker.name} ended {worker.false_starts} times before it was ready; see {life.log}"
