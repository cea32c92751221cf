"""A worker's memory after 10,000 and after 100,000 jobs, which shows whether it keeps anything of ended jobs.

`python -m tests.chaos memory`: echo jobs without a delay, through one worker.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from producer import Client
from tests.chaos.fleet import Fleet
from tests.chaos.guard import Guard
from tests.chaos.jobs import make_case
from tests.redis_server import RedisServer
from vqa.answer import Answer
from vqa.jobs.job import Job
from vqa.settings import QueueSettings

FEW = 10_000
MANY = 100_000
MAX_GROWTH = 0.05


def main(few: int = FEW, many: int = MANY) -> int:
    """Measure; return 1 if the memory grew by more than 5 %."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vqa-memory-")))
        guard = stack.enter_context(Guard())
        server = stack.enter_context(RedisServer(folder / "redis"))
        # outcomes are read at once, and Redis is not measured
        variables = {"VQA_SLOTS": "16", "VQA_RESULT_TTL_S": "60"}
        fleet = stack.enter_context(Fleet(folder, guard, server.port, [variables]))
        fleet.wait_ready()
        client = stack.enter_context(Client(QueueSettings(redis_url=server.url)))
        [life] = fleet.lives
        first = _answer(client, 0, few, life.pid)
        last = _answer(client, few, many, life.pid)
        assert life.end is None, "the worker ended"
    growth = last / first - 1
    print(f"chaos memory: {first:.1f} MiB after {few} jobs, {last:.1f} MiB after {many}: {growth:+.1%}")
    return 0 if growth <= MAX_GROWTH else 1


def _answer(client: Client, done: int, until: int, pid: int) -> float:
    """Have jobs answered; return the process's resident memory in MiB."""
    started = time.monotonic()
    answered = sum(isinstance(outcome, Answer) for _, outcome in client.ask_many(_jobs(done, until), in_flight=2000))
    assert answered == until - done, f"{answered} of {until - done} jobs were answered"
    print(f"chaos memory: {until} jobs, {answered / (time.monotonic() - started):.0f} a second", flush=True)
    # for memory that is freed in the background
    time.sleep(3)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _jobs(first: int, end: int) -> Iterator[Job]:
    return (make_case(f"job-{number}", "plain", 0, lane="bulk").job for number in range(first, end))
