"""The workers: real processes, each behind a proxy of its own to Redis, started again when they end."""

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
#: a worker that ended before it was ready so often in a row has something wrong with it that is no fault of ours
_FALSE_STARTS = 5


class Berth:
    """Where one worker runs after another under the same name."""

    def __init__(self, name: str, proxy: Proxy) -> None:
        self.name = name
        self.proxy = proxy
        #: held by the fault that has this worker
        self.claimed = threading.Lock()
        self.process: WorkerProcess | None = None
        self.life: Life | None = None
        self.next_start = 0.0
        self.false_starts = 0

    @property
    def is_ready(self) -> bool:
        """Whether it runs and takes jobs."""
        return self.life is not None and self.life.ready is not None and self.life.end is None

    def signal(self, number: int, meant: str | None = None) -> Life:
        """Send a signal to whoever runs here now; `meant` says that it is to end by it.

        One that has just ended by itself is past hearing it: what a life came to is in its `status`.
        """
        assert self.process is not None
        assert self.life is not None
        if self.process.process.poll() is None:
            if meant:
                self.life.meant = meant
            self.process.process.send_signal(number)
        return self.life


class Fleet:
    """A context manager. Worker `w1` has the first of `variables`, and so on."""

    def __init__(self, folder: Path, guard: Guard, redis_port: int, variables: list[Mapping[str, str]]) -> None:
        self.lives: list[Life] = []
        self.disturbances: list[Disturbance] = []
        self._folder = folder
        self._guard = guard
        self._redis_port = redis_port
        self._variables = {f"w{number}": each for number, each in enumerate(variables, 1)}
        self.berths: list[Berth] = []
        self._stack = ExitStack()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self.failure: str | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in self._variables:
                self.berths.append(Berth(name, stack.enter_context(Proxy(self._redis_port))))
            stack.callback(self._end_all)
            self._keeper.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Until all are."""
        until = time.monotonic() + timeout_s
        while not all(berth.is_ready for berth in self.berths):
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"not all workers are ready; see {self._folder}"
            time.sleep(0.05)

    def wait_some_ready(self, timeout_s: float = 60) -> None:
        """Until one is: faults on nobody prove nothing."""
        until = time.monotonic() + timeout_s
        while not any(berth.is_ready for berth in self.berths):
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"no worker was ready for {timeout_s:.0f} s; see {self._folder}"
            time.sleep(0.05)

    @contextmanager
    def claim(self, random: random.Random, timeout_s: float = 60) -> Iterator[Berth]:
        """A worker that is ready and that no other fault has, drawn at random."""
        order = random.sample(self.berths, len(self.berths))
        until = time.monotonic() + timeout_s
        while True:
            for berth in order:
                if berth.is_ready and berth.claimed.acquire(blocking=False):
                    try:
                        yield berth
                    finally:
                        berth.claimed.release()
                    return
            assert self.failure is None, self.failure
            assert time.monotonic() < until, f"no worker was ready for {timeout_s:.0f} s; see {self._folder}"
            time.sleep(0.05)

    @contextmanager
    def disturbing(self, kind: str, berth: Berth | None = None) -> Iterator[Disturbance]:
        """Write down that a worker (all, where None) cannot reach Redis or does not run in this block."""
        pid = berth.life.pid if berth and berth.life else None
        disturbance = Disturbance(kind, pid, time.monotonic())
        self.disturbances.append(disturbance)
        try:
            yield disturbance
        finally:
            disturbance.end = time.monotonic()

    def drain(self, timeout_s: float) -> list[str]:
        """SIGTERM to all, and no new ones; what was wrong with their ends."""
        self._closing.set()
        self._keeper.join()
        for berth in self.berths:
            if berth.life is not None and berth.life.end is None:
                berth.signal(signal.SIGTERM, "drained")
        until = time.monotonic() + timeout_s
        while any(self._runs(berth) for berth in self.berths) and time.monotonic() < until:
            time.sleep(0.05)
        return [
            f"{berth.name} did not end within {timeout_s:.0f} s of SIGTERM"
            for berth in self.berths
            if self._runs(berth)
        ]

    def _runs(self, berth: Berth) -> bool:
        self._look(berth)
        return berth.life is not None and berth.life.end is None

    def _end_all(self) -> None:
        self._closing.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        for berth in self.berths:
            if self._runs(berth):
                berth.signal(signal.SIGKILL, "killed")
                assert berth.process
                berth.process.process.wait()
                self._look(berth)

    def _keep(self) -> None:
        while not self._closing.wait(0.05):
            for berth in self.berths:
                if not self._runs(berth) and time.monotonic() >= berth.next_start and self.failure is None:
                    self._start(berth)

    def _start(self, berth: Berth) -> None:
        number = sum(life.name == berth.name for life in self.lives)
        log = self._folder / f"{berth.name}-{number:03}.log"
        url = f"redis://127.0.0.1:{berth.proxy.port}/0"
        berth.process = WorkerProcess(url, berth.name, log, **self._variables[berth.name])
        pid = berth.process.process.pid
        self._guard.watch(pid)
        berth.life = Life(berth.name, pid, log, time.monotonic())
        self.lives.append(berth.life)

    def _look(self, berth: Berth) -> None:
        life, process = berth.life, berth.process
        if life is None or process is None or life.end is not None:
            return
        if life.ready is None and " is ready: " in life.log.read_text(errors="replace"):
            life.ready, berth.false_starts = time.monotonic(), 0
        status = process.process.poll()
        if status is None:
            return
        life.status, life.end = status, time.monotonic()
        self._guard.forget(life.pid)
        berth.next_start = life.end + _PAUSE_S
        berth.false_starts += life.ready is None and life.meant is None
        if berth.false_starts >= _FALSE_STARTS:
            self.failure = f"{berth.name} ended {berth.false_starts} times before it was ready; see {life.log}"
