"""What is done to Redis, to the link between it and a worker, and to the lists."""

from __future__ import annotations

import base64
import json
import random
import time

from redis.exceptions import RedisError

from tests.chaos.chaos import Chaos

#: with a lease of 3 s a renewal may take 1 s; a round trip is twice this
_SLOWEST_S = 0.25


def redis_kill(chaos: Chaos, random: random.Random) -> bool:
    """SIGKILL Redis, and start it on its append-only file."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.kill()
        time.sleep(random.uniform(0.1, 6))
        chaos.server.start()
    return True


def redis_restart(chaos: Chaos, random: random.Random) -> bool:
    """Stop Redis as its operator does, and start it."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.stop()
        time.sleep(random.uniform(0, 2))
        chaos.server.start()
    return True


def redis_pause(chaos: Chaos, random: random.Random) -> bool:
    """SIGSTOP Redis: connections stay and nothing is answered."""
    with chaos.redis_trouble, chaos.fleet.disturbing("without Redis"):
        chaos.server.pause()
        try:
            time.sleep(random.uniform(0.5, 8))
        finally:
            chaos.server.resume()
    return True


def partition(chaos: Chaos, random: random.Random) -> bool:
    """A worker whose packets vanish for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as berth, chaos.fleet.disturbing("cut off", berth):
        berth.proxy.silence()
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            berth.proxy.restore()
    return True


def cut(chaos: Chaos, random: random.Random) -> bool:
    """A worker whose connections are reset and refused for longer than its lease."""
    chaos.load(random)
    with chaos.fleet.claim(random) as berth, chaos.fleet.disturbing("cut off", berth):
        berth.proxy.cut()
        try:
            time.sleep(chaos.plan.lease_s * random.uniform(1.2, 2.5))
        finally:
            berth.proxy.restore()
    return True


def reset(chaos: Chaos, random: random.Random) -> bool:
    """A worker whose connections are reset, some replies lost on the way; it may connect again at once."""
    with chaos.fleet.claim(random) as berth:
        for _ in range(3):
            berth.proxy.break_connections()
            time.sleep(random.uniform(0, 0.5))
    return True


def slow(chaos: Chaos, random: random.Random) -> bool:
    """A worker far away: this excuses nothing."""
    with chaos.fleet.claim(random) as berth:
        berth.proxy.slow(random.uniform(0.02, _SLOWEST_S))
        try:
            time.sleep(random.uniform(2, 6))
        finally:
            berth.proxy.restore()
    return True


def malformed(chaos: Chaos, random: random.Random) -> bool:
    """Messages that are none, into every list."""
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
