"""Time from SIGKILL of a worker until its jobs are back in the queue, with the default lease.

`python -m tests.chaos recovery`: kills one of six workers every few seconds, so several recoveries overlap.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

from redis import Redis

from producer import Client
from tests.chaos.figures import percentile, spread
from tests.chaos.fleet import Fleet
from tests.chaos.guard import Guard
from tests.chaos.jobs import make_case
from tests.chaos.recovery import HeldJob, Recovery, held_by, watch
from tests.redis_server import RedisServer
from vqa.celery import make_app
from vqa.redis.connection import connect
from vqa.settings import QueueSettings
from workers.process.janitor import Janitor

KILLS = 50
BOUND_S = 15.0

_WORKERS = 6
_SLOTS = 4
_PAUSE_S = 3.0


def main(kills: int = KILLS, seed: int = 1) -> int:
    """Measure; return 1 if a recovery took longer than the bound."""
    folder = Path(tempfile.mkdtemp(prefix="vqa-recovery-"))
    with ExitStack() as stack:
        guard = stack.enter_context(Guard())
        server = stack.enter_context(RedisServer(folder / "redis"))
        settings = QueueSettings(redis_url=server.url)
        redis = stack.enter_context(connect(settings))
        fleet = stack.enter_context(Fleet(folder, guard, server.port, [{"VQA_SLOTS": str(_SLOTS)}] * _WORKERS))
        client = stack.enter_context(Client(settings))
        fleet.wait_ready()
        # as in every supervisor: a janitor that is not killed
        app = make_app(settings)
        janitor = Janitor(redis, app, settings)
        janitor.start()
        stack.callback(app.close)
        stack.callback(janitor.stop)
        # a janitor judges leases after it has run for a lease time
        time.sleep(settings.lease_s + 4)
        waits = stack.enter_context(ThreadPoolExecutor(16))
        recoveries = _kill(fleet, client, redis, waits, kills, Random(seed))
    took = [each.took_s for each in recoveries]
    print(
        f"chaos recovery: {kills} times kill -9 of a worker with jobs, {len(took)} jobs back in the queue, lease "
        f"{settings.lease_s:.0f} s: {spread(took)}, p95 {percentile(took, 0.95):.1f} s; bound {BOUND_S:.0f} s; "
        f"logs in {folder}"
    )
    return 0 if took and max(took) < BOUND_S else 1


def _kill(
    fleet: Fleet, client: Client, redis: Redis, waits: ThreadPoolExecutor, kills: int, random: Random
) -> list[Recovery]:
    numbers = itertools.count()

    def measure(held: list[HeldJob], killed: float) -> list[Recovery]:
        recoveries = watch(redis, held, killed, timeout_s=90)
        for each in held:
            # already measured; a job that loses three workers would be given up
            client.cancel(each.id)
        return recoveries

    recoveries: list[Future[list[Recovery]]] = []
    while len(recoveries) < kills:
        open_jobs = sum(sum(states.values()) for states in client.counts().values())
        wanted = _WORKERS * _SLOTS - open_jobs
        client.submit_many(make_case(f"job-{next(numbers)}", "held", 900).job for _ in range(max(0, wanted)))
        time.sleep(_PAUSE_S)
        with fleet.claim(random) as worker:
            if held := held_by(redis, worker.name):
                worker.signal(signal.SIGKILL, "killed")
                recoveries.append(waits.submit(measure, held, time.monotonic()))
                if len(recoveries) % 10 == 0:
                    print(f"chaos recovery: {len(recoveries)} of {kills}", flush=True)
    return [recovery for each in recoveries for recovery in each.result()]
