"""Faults of workers and producers. Each returns whether it took effect, as another may have come first."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import nullcontext

from tests.chaos.chaos import Chaos

Fault = Callable[[Chaos, random.Random], bool]

#: seconds between a hang's time limit and the end of its process: the watchdog's interval, giving back jobs
_WATCHDOG_S = 20.0


def kill(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL a worker."""
    # half of the kills happen without a fault of Redis, and their recovery times are checked against the bound
    calm = random.random() < 0.5
    with chaos.redis_trouble if calm else nullcontext():
        with chaos.fleet.claim(random) as worker:
            chaos.load(random)
            until = time.monotonic() + 3
            while not (held := chaos.holds(worker)) and time.monotonic() < until:
                time.sleep(0.1)
            life = worker.signal(signal.SIGKILL, "killed")
            watching = chaos.watch_recovery(held, time.monotonic())
            took_effect = chaos.ends(life, 10) and life.status == -signal.SIGKILL
        if calm:
            wait([watching], chaos.plan.bound_s)
    return took_effect


def burst(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL workers as soon as they take jobs of 2 ms, when messages can be lost."""
    killed = 0
    for _ in range(2):
        lane = random.choice(["interactive", "bulk"])
        if not chaos.submit(*(chaos.make_case("burst", 0.002, lane=lane) for _ in range(60))):
            return False
        with chaos.fleet.claim(random) as worker:
            assert worker.life
            before, until = chaos.tail.last_start(worker.life.pid), time.monotonic() + 2
            while chaos.tail.last_start(worker.life.pid) <= before and time.monotonic() < until:
                time.sleep(0.001)
            life = worker.signal(signal.SIGKILL, "killed")
            killed += chaos.ends(life, 10) and life.status == -signal.SIGKILL
    return killed > 0


def stop(chaos: Chaos, random: random.Random) -> bool:
    """SIGSTOP a worker for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as worker, chaos.fleet.disturbing("stopped", worker):
        life = worker.signal(signal.SIGSTOP)
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            worker.signal(signal.SIGCONT)
        return life.end is None


def drain(chaos: Chaos, random: random.Random) -> bool:
    """SIGTERM a worker: it finishes its jobs and ends."""
    return _terminate(chaos, random, "drained", chaos.plan.drain_s + 6)


def hurry(chaos: Chaos, random: random.Random) -> bool:
    """SIGTERM a worker twice: it gives back its jobs at once."""
    return _terminate(chaos, random, "hurried", 6)


def _terminate(chaos: Chaos, random: random.Random, intended: str, within_s: float) -> bool:
    chaos.load(random)
    with chaos.fleet.claim(random) as worker:
        life = worker.signal(signal.SIGTERM, intended)
        if intended == "hurried":
            time.sleep(random.uniform(0.1, 0.6))
            if life.end is None:
                worker.signal(signal.SIGTERM)
        # Redis may be unreachable meanwhile, for less than the extra time
        if not chaos.ends(life, within_s) and not chaos.ends(life, 15):
            chaos.violations.append(f"{life.name} ({life.pid}) was {intended} and did not end; see {life.log}")
            worker.signal(signal.SIGKILL, "killed")
            chaos.ends(life, 10)
        return life.intended == intended


def hang(chaos: Chaos, random: random.Random) -> bool:
    """Submit a job whose first attempt hangs the engine: the process must end itself."""
    return _break(chaos, random, "hang", 71, chaos.plan.hang_s + _WATCHDOG_S)


def crash(chaos: Chaos, random: random.Random) -> bool:
    """Submit a job whose first attempt crashes the engine: the process must end itself."""
    return _break(chaos, random, "crash", 70, _WATCHDOG_S)


def _break(chaos: Chaos, random: random.Random, kind: str, status: int, within_s: float) -> bool:
    case = chaos.make_case(kind, random.uniform(0.01, 0.5), {"echo_fail": kind, "echo_fail_attempts": "1"})
    if not chaos.submit(case):
        return False
    life = chaos.first_life_of(case.job.id)
    if life is None:
        chaos.violations.append(f"job {case.job.id} was accepted and never started")
        return False
    if chaos.tail.first_attempt(case.job.id) != 1:
        # another fault ended the worker of the first attempt, so this fault did not happen
        return False
    if not chaos.ends(life, within_s) and len(chaos.tail.pids_of(case.job.id)) == 1:
        chaos.violations.append(f"{life.name} ({life.pid}) did not end in {within_s:.0f} s of a {kind}; see {life.log}")
    return life.status == status


def poison(chaos: Chaos, random: random.Random) -> bool:
    """Submit a job that ends every process that runs it."""
    case = chaos.make_case("poison", random.uniform(0.01, 0.3), {"echo_fail": "exit"})
    if not chaos.submit(case):
        return False
    until = time.monotonic() + 90
    # the verdict checks whether and how the job ended
    while chaos.submitter.is_open(case.job.id) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(chaos.tail.pids_of(case.job.id))


def producer(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL a producer, possibly between the acceptance of a job and its message."""
    return chaos.producers.kill(random) is not None
