"""Faults of Redis, of the connection between Redis and a worker, and of the lists."""

from __future__ import annotations

import base64
import json
import random
import time

from redis.exceptions import RedisError

from tests.chaos.chaos import Chaos

#: one way; with a lease of 3 s, a renewal may take 1 s
_MAX_DELAY_S = 0.25


def redis_kill(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL Redis and restart it from its append-only file."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.kill()
        time.sleep(random.uniform(0.1, 6))
        chaos.server.start()
    return True


def redis_restart(chaos: Chaos, random: random.Random) -> bool:
    """Stop Redis cleanly and restart it."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.stop()
        time.sleep(random.uniform(0, 2))
        chaos.server.start()
    return True


def redis_pause(chaos: Chaos, random: random.Random) -> bool:
    """SIGSTOP Redis: connections stay open without replies."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.pause()
        try:
            time.sleep(random.uniform(0.5, 8))
        finally:
            chaos.server.resume()
    return True


def partition(chaos: Chaos, random: random.Random) -> bool:
    """Drop a worker's packets for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as worker, chaos.fleet.disturbing("cut off", worker):
        worker.proxy.silence()
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            worker.proxy.restore()
    return True


def cut(chaos: Chaos, random: random.Random) -> bool:
    """Reset and refuse a worker's connections for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as worker, chaos.fleet.disturbing("cut off", worker):
        worker.proxy.cut()
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            worker.proxy.restore()
    return True


def reset(chaos: Chaos, random: random.Random) -> bool:
    """Reset a worker's connections, losing some replies; it may reconnect at once."""
    with chaos.fleet.claim(random) as worker:
        for _ in range(3):
            worker.proxy.break_connections()
            time.sleep(random.uniform(0, 0.5))
    return True


def slow(chaos: Chaos, random: random.Random) -> bool:
    """Delay a worker's packets; this excuses nothing."""
    with chaos.fleet.claim(random) as worker:
        worker.proxy.slow(random.uniform(0.02, _MAX_DELAY_S))
        try:
            time.sleep(random.uniform(2, 6))
        finally:
            worker.proxy.restore()
    return True


def malformed(chaos: Chaos, random: random.Random) -> bool:
    """Push malformed messages to every list."""
    try:
        for name in ("interactive", "bulk", "celery"):
            chaos.redis.lpush(name, *random.sample(_MALFORMED, 3))
    except RedisError:
        return False
    return True


def _message(headers: object, body: object, **more: object) -> bytes:
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    delivery = {"exchange": "", "routing_key": "bulk"}
    properties = {"delivery_tag": "t", "delivery_info": delivery, "body_encoding": "base64"}
    fields = {"content-type": "application/json", "content-encoding": "utf-8", "properties": properties}
    return json.dumps({"body": encoded, "headers": headers, **fields, **more}).encode()


_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_HEADERS = {"lang": "py", "task": "vqa.answer", "id": "malformed"}
_BODY = [[], {}, _EMBED]
_MALFORMED = [
    b"\x80\x04\x95\xff\x00raw bytes",
    b"",
    b"not JSON",
    b"[" * 5000,
    b"{}",
    b"null",
    json.dumps({"body": "x"}).encode(),
    _message(_HEADERS, {"no": "list"}),
    _message(_HEADERS, [[]]),
    _message({}, _BODY),
    _message({**_HEADERS, "id": ["a", "list"]}, _BODY),
    _message({**_HEADERS, "id": "x" * 10_000}, _BODY),
    _message({**_HEADERS, "task": "vqa.misspelt"}, _BODY),
    _message({**_HEADERS, "eta": 7, "timelimit": "soon", "retries": "none"}, _BODY),
    _message(_HEADERS, _BODY, **{"content-type": "application/x-python-serialize"}),
    _message(_HEADERS, _BODY, properties="none"),
]
