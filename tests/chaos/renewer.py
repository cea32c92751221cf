"""The cost of renewing 128 leases: CPU time of the renewing thread, and calls to Redis.

`python -m tests.chaos renewer`: the thread runs in this process with a real Redis and the default lease.
"""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from redis import Redis

from tests.chaos.jobs import make_case
from tests.redis_server import RedisServer
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings
from workers.jobs.leases import Leases

SLOTS = 128
SECONDS = 60.0
MAX_SHARE = 0.01


def main(seconds: float = SECONDS) -> int:
    """Measure; return 1 if it costs more than 1 % of a core, or more than one call per renewal."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vqa-renewer-")))
        settings = QueueSettings(redis_url=stack.enter_context(RedisServer(folder)).url)
        redis = stack.enter_context(connect(settings))
        leases = Leases(stack.enter_context(connect(settings)), "renewer", settings.lease_s, {"slots": SLOTS})
        ledger = Ledger(redis)
        for number in range(SLOTS):
            job = make_case(f"job-{number}", "held", 1).job
            ledger.accept(job.id, job.lane, job.to_json(), 3600)
            lease = ledger.take(job.id, "renewer", uuid.uuid4().hex, settings.lease_s)
            assert not isinstance(lease, str), lease
            stack.enter_context(leases.holding(lease))
        leases.start(on_lost=lambda id: None)
        stack.callback(leases.stop)
        time.sleep(settings.lease_s)
        spent_s, calls = _measure(redis, seconds)
        held = sum(ledger.counts()["interactive"][state] for state in ("leased",))
    renewals = calls["EVALSHA"] + calls["EVAL"]
    share = spent_s / seconds
    print(
        f"chaos renewer: {held} leases over {seconds:.0f} s: {share:.2%} of a core, {renewals} renewals, "
        f"calls: {', '.join(f'{count} {name}' for name, count in sorted(calls.items()))}"
    )
    expected = seconds / (settings.lease_s / 3)
    # a ping every 30 s checks the connection
    others = calls.total() - renewals - calls["PING"]
    right = held == SLOTS and abs(renewals - expected) <= 2 and not others
    return 0 if right and share < MAX_SHARE else 1


def _measure(redis: Redis, seconds: float) -> tuple[float, Counter[str]]:
    """Return the CPU time of the thread and the commands that reached Redis, without those of scripts."""
    [thread] = [thread for thread in threading.enumerate() if thread.name == "leases"]
    assert thread.ident
    clock = time.pthread_getcpuclockid(thread.ident)
    calls: Counter[str] = Counter()
    with redis.monitor() as monitor:
        before, until = time.clock_gettime(clock), time.monotonic() + seconds
        watching = threading.Thread(target=_count, args=(monitor, calls, until))
        watching.start()
        time.sleep(max(0.0, until - time.monotonic()))
        spent_s = time.clock_gettime(clock) - before
        # one more command wakes up the thread that waits for the next
        redis.echo("end")
        watching.join()
    return spent_s, calls


def _count(monitor: object, calls: Counter[str], until: float) -> None:
    for command in monitor.listen():
        if time.monotonic() >= until:
            return
        if command["client_type"] != "lua":
            calls[command["command"].split(" ", 1)[0].upper()] += 1
