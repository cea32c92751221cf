"""What is done to workers and producers. Each fault says whether it took effect: another may have come first."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import nullcontext

from tests.chaos.chaos import Chaos

Fault = Callable[[Chaos, random.Random], bool]

#: seconds from the end of a hang's limit to its process's: the watchdog's rounds, giving back on a busy machine
_WATCHDOG_S = 20.0


def kill(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL a worker, whatever it does."""
    # half of them while Redis is left alone: what those jobs take to be back is held against the bound
    calm = random.random() < 0.5
    with chaos.redis_trouble if calm else nullcontext():
        with chaos.fleet.claim(random) as berth:
            chaos.load(random)
            until = time.monotonic() + 3
            while not (held := chaos.holds(berth)) and time.monotonic() < until:
                time.sleep(0.1)
            life = berth.signal(signal.SIGKILL, "killed")
            watching = chaos.watch_recovery(held, time.monotonic())
            took_effect = chaos.ends(life, 10) and life.status == -signal.SIGKILL
        if calm:
            wait([watching], chaos.plan.bound_s)
    return took_effect


def burst(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL workers as soon as they take jobs of 2 ms: the moment in which messages are lost."""
    killed = 0
    for _ in range(2):
        lane = random.choice(["interactive", "bulk"])
        if not chaos.submit(*(chaos.ask("burst", 0.002, lane=lane) for _ in range(60))):
            return False
        with chaos.fleet.claim(random) as berth:
            assert berth.life
            before, until = chaos.tail.last_start(berth.life.pid), time.monotonic() + 2
            while chaos.tail.last_start(berth.life.pid) <= before and time.monotonic() < until:
                time.sleep(0.001)
            life = berth.signal(signal.SIGKILL, "killed")
            killed += chaos.ends(life, 10) and life.status == -signal.SIGKILL
    return killed > 0


def stop(chaos: Chaos, random: random.Random) -> bool:
    """SIGSTOP a worker for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as berth, chaos.fleet.disturbing("stopped", berth):
        life = berth.signal(signal.SIGSTOP)
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            berth.signal(signal.SIGCONT)
        return life.end is None


def drain(chaos: Chaos, random: random.Random) -> bool:
    """SIGTERM a worker: it finishes what it holds and ends."""
    return _terminate(chaos, random, "drained", chaos.plan.drain_s + 6)


def hurry(chaos: Chaos, random: random.Random) -> bool:
    """SIGTERM it twice: it gives back what it holds, now."""
    return _terminate(chaos, random, "hurried", 6)


def _terminate(chaos: Chaos, random: random.Random, meant: str, within_s: float) -> bool:
    chaos.load(random)
    with chaos.fleet.claim(random) as berth:
        life = berth.signal(signal.SIGTERM, meant)
        if meant == "hurried":
            time.sleep(random.uniform(0.1, 0.6))
            if life.end is None:
                berth.signal(signal.SIGTERM)
        # Redis may be away meanwhile, for less than that
        if not chaos.ends(life, within_s) and not chaos.ends(life, 15):
            chaos.complaints.append(f"{life.name} ({life.pid}) was {meant} and did not end; see {life.log}")
            berth.signal(signal.SIGKILL, "killed")
            chaos.ends(life, 10)
        return life.meant == meant


def hang(chaos: Chaos, random: random.Random) -> bool:
    """A job at whose first attempt the engine hangs: its process must end by itself."""
    return _break(chaos, random, "hang", 71, chaos.plan.hang_s + _WATCHDOG_S)


def crash(chaos: Chaos, random: random.Random) -> bool:
    """A job at whose first attempt an exception escapes the engine: its process must end by itself."""
    return _break(chaos, random, "crash", 70, _WATCHDOG_S)


def _break(chaos: Chaos, random: random.Random, kind: str, status: int, within_s: float) -> bool:
    asked = chaos.ask(kind, random.uniform(0.01, 0.5), {"echo_fail": kind, "echo_fail_attempts": "1"})
    if not chaos.submit(asked):
        return False
    life = chaos.first_life_of(asked.job.id)
    if life is None:
        chaos.complaints.append(f"job {asked.job.id} was accepted and never began")
        return False
    if chaos.tail.first_attempt(asked.job.id) != 1:
        # the worker of its first attempt was ended by the fault before: this one did not happen
        return False
    if not chaos.ends(life, within_s) and len(chaos.tail.pids_of(asked.job.id)) == 1:
        chaos.complaints.append(f"{life.name} ({life.pid}) did not end in {within_s:.0f} s of a {kind}; see {life.log}")
    return life.status == status


def poison(chaos: Chaos, random: random.Random) -> bool:
    """A job that ends every process that answers it."""
    asked = chaos.ask("poison", random.uniform(0.01, 0.3), {"echo_fail": "exit"})
    if not chaos.submit(asked):
        return False
    until = time.monotonic() + 90
    # that it ends, and how, is the verdict's to say
    while chaos.submitter.is_open(asked.job.id) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(chaos.tail.pids_of(asked.job.id))


def producer(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL a producer, perhaps between a job's acceptance and its wake-up."""
    return chaos.producers.kill(random) is not None
