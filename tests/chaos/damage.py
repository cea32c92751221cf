"""Faults of what Redis holds: damaged entries, flushed scripts, garbage on channels, another clock; killed decoders."""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress

import psutil
from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.chaos import Chaos
from tests.faketime import CACHED_S
from vqa.ledger.commands import entry_key

_DEEP = b"[" * 100_000
#: not a header and a payload that the ledger wrote
_GARBAGE = (
    b"",
    b"no JSON",
    b"{}\n{}",
    b"null\nnull",
    b'["a"]\n[]',
    b'{"state": 7, "lane": {}}\n{}',
    _DEEP,
    b"\xff\xfe\n\x00",
)
_CHANNELS = ("vqa:dropped", "/0.celery.pidbox", "/0.celeryev/worker.heartbeat", "/0.reply.celery.pidbox")
_STEPS_S = (2, -2, 30, -30, 3600, -3600)


def damage(chaos: Chaos, random: random.Random) -> bool:
    """Overwrite the ledger's entries of some open jobs, as a stray SET or a wrong restore does."""
    cases = [
        chaos.make_case("damaged", random.uniform(1, 3), lane=random.choice(["interactive", "bulk"])) for _ in "1234"
    ]
    if not chaos.submit(*cases):
        return False
    time.sleep(random.uniform(0, 0.5))
    hit = 0
    for each in cases:
        with suppress(RedisError):
            hit += _overwrite(chaos.redis, entry_key(each.job.id), random.choice(_GARBAGE))
    return hit > 0


def _overwrite(redis: Redis, key: str, garbage: bytes) -> bool:
    """Overwrite an existing key only: a job that has just ended stays ended."""
    return bool(redis.set(key, garbage, xx=True))


def flush(chaos: Chaos, random: random.Random) -> bool:
    """Make Redis forget its scripts, as a failover or SCRIPT FLUSH does, again and again under load."""
    chaos.load(random)
    try:
        for _ in range(20):
            chaos.redis.script_flush()
            time.sleep(random.uniform(0, 0.1))
    except RedisError:
        return False
    return True


def broadcast(chaos: Chaos, random: random.Random) -> bool:
    """Publish garbage to every channel that a process reads, and put it among the descriptions of workers."""
    try:
        for garbage in random.sample(_GARBAGE, 4):
            for channel in _CHANNELS:
                chaos.redis.publish(channel, garbage)
            chaos.redis.hset("vqa:workers", f"stranger-{random.randrange(9)}", garbage)
    except RedisError:
        return False
    return True


def clock(chaos: Chaos, random: random.Random) -> bool:
    """Step Redis's clock and, some seconds later, step it back, as NTP or a failover to another host does."""
    chaos.load(random)
    with chaos.redis_trouble, chaos.fleet.disturbing("with another clock of Redis"):
        chaos.clock.step_to(random.choice(_STEPS_S))
        try:
            time.sleep(CACHED_S + random.uniform(1, 6))
        finally:
            chaos.clock.step_to(0)
            time.sleep(CACHED_S)
    return True


def decoders(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL a worker's decoders while it decodes images, as the kernel does when memory runs out."""
    sizes = [(random.randint(500, 1500), random.randint(500, 1500)) for _ in range(4 * chaos.plan.workers)]
    if not chaos.submit(*(chaos.make_case("image", 0.1, size=size) for size in sizes)):
        return False
    killed = 0
    with chaos.fleet.claim(random) as worker:
        assert worker.life
        for _ in range(10):
            with suppress(psutil.Error):
                for child in psutil.Process(worker.life.pid).children():
                    if "workers.media.decoder_child" in child.cmdline():
                        child.send_signal(signal.SIGKILL)
                        killed += 1
            time.sleep(random.uniform(0.05, 0.3))
    return killed > 0
