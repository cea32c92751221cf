"""Everything that a fault can act on: Redis, workers, producers, and a submitter for the fault's own jobs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.fleet import Fleet, ManagedWorker
from tests.chaos.guard import Guard
from tests.chaos.jobs import Case, make_case
from tests.chaos.journal import JournalTail
from tests.chaos.life import Life
from tests.chaos.plan import Plan
from tests.chaos.producers import Producers
from tests.chaos.record import Record
from tests.chaos.recovery import HeldJob, Recovery, held_by, watch
from tests.chaos.submitter import Submitter
from tests.chaos.witness import Witness
from tests.faketime import SteppedClock
from tests.redis_server import RedisServer
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

#: Redis replies after the write is on disk. With `everysec` it delays the write for up to 2 s while an fsync is running
#: (aof.c, flushAppendOnlyFile), and still replies: a SIGKILL of the server then loses acknowledged writes. With either
#: of the other two policies, a power loss may lose them.
_APPEND = "appendfsync always"


class Chaos:
    """A context manager that starts and stops Redis, workers and producers."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self.tail = JournalTail(self.journal)
        self.violations: list[str] = []
        self.recoveries: list[Recovery] = []
        #: held by a fault of Redis itself, so that there is one at a time
        self.redis_trouble = threading.Lock()
        self._numbers = itertools.count()
        self._collected = threading.Event()
        self._watchers = ThreadPoolExecutor(8, thread_name_prefix="recovery")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            guard = stack.enter_context(Guard())
            self.clock = SteppedClock(self.folder / "clock")
            server = RedisServer(self.folder / "redis", _APPEND, append_only=True, program=self.clock.server)
            self.server = stack.enter_context(server)
            self.settings = QueueSettings(redis_url=self.server.url, redis_timeout_s=self.plan.redis_timeout_s)
            self.redis: Redis = stack.enter_context(connect(self.settings))
            self.witness = stack.enter_context(Witness(self.redis))
            slots = [self.plan.slots[number % len(self.plan.slots)] for number in range(self.plan.workers)]
            variables = [self._variables(each) for each in slots]
            self.fleet = stack.enter_context(Fleet(self.folder, guard, self.server.port, variables))
            self.fleet.wait_ready()
            self.submitter = Submitter(self.settings, Record(self.folder / "faults.jsonl"))
            stack.callback(self.submitter.close)
            stack.callback(self._stop_collecting, self._start_collecting())
            stack.callback(self._watchers.shutdown)
            self.producers = stack.enter_context(Producers(self.plan, self.folder, guard, self.server.url))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def records(self) -> list[Path]:
        """The files of the producers and of the faults' own jobs."""
        return [*self.producers.records, self.folder / "faults.jsonl"]

    def _variables(self, slots: int) -> Mapping[str, str]:
        return {
            "VQA_SLOTS": str(slots),
            "VQA_LEASE_S": str(self.plan.lease_s),
            "VQA_HANG_S": str(self.plan.hang_s),
            "VQA_DRAIN_S": str(self.plan.drain_s),
            "VQA_REDIS_TIMEOUT_S": str(self.plan.redis_timeout_s),
            "VQA_ECHO_JOURNAL": str(self.journal),
        }

    def make_case(self, kind: str, delay_s: float, metadata: dict[str, str] | None = None, **fields: Any) -> Case:
        """Make a job for a fault."""
        return make_case(f"f-{kind}-{next(self._numbers)}", kind, delay_s, metadata, **fields)

    def submit(self, *cases: Case, timeout_s: float = 60) -> bool:
        """Retry until the jobs are accepted; return False if Redis stays unreachable."""
        until = time.monotonic() + timeout_s
        while not self.submitter.submit(cases):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def load(self, random: Random) -> None:
        """Give the workers jobs to hold during a fault."""
        lanes = (random.choice(["interactive", "bulk"]) for _ in range(2 * self.plan.workers))
        self.submit(*(self.make_case("held", random.uniform(1.5, 5), lane=lane) for lane in lanes))

    def first_life_of(self, id: str, timeout_s: float = 60) -> Life | None:
        """Wait until a process runs the job, and return the first that did."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if pids := self.tail.pids_of(id):
                return next(life for life in self.fleet.lives if life.pid == pids[0])
            time.sleep(0.02)
        return None

    def ends(self, life: Life, within_s: float) -> bool:
        """Wait for the process to end; return whether it did."""
        until = time.monotonic() + within_s
        while life.end is None and time.monotonic() < until:
            time.sleep(0.02)
        return life.end is not None

    def holds(self, worker: ManagedWorker) -> list[HeldJob]:
        """Return the worker's jobs according to the ledger; none if Redis is unreachable."""
        try:
            return held_by(self.redis, worker.name)
        except RedisError:
            return []

    def watch_recovery(self, held: list[HeldJob], killed: float) -> Future[None]:
        """Measure in the background how long these jobs take to be back in the queue."""

        def measure() -> None:
            # without Redis at the time of the kill, there is nothing to measure
            with suppress(RedisError):
                self.recoveries += watch(self.redis, held, killed, timeout_s=60)

        return self._watchers.submit(measure)

    def _start_collecting(self) -> threading.Thread:
        def collect() -> None:
            while not self._collected.is_set():
                self.submitter.collect(0.25)

        thread = threading.Thread(target=collect, name="collecting", daemon=True)
        thread.start()
        return thread

    def _stop_collecting(self, thread: threading.Thread) -> None:
        self._collected.set()
        thread.join()
