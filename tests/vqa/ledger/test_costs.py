"""No verb reads a payload that it does not need, and none does more than a portion of work."""

import re

import pytest
from redis import Redis

from bench.queue.ledger import Stage
from vqa.ledger.commands import SCRIPT, dead_key, entry_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from vqa.settings import Limits

LOST = "WorkerLost: its lease ran out"
#: read by people, or by the janitor if another program has damaged keys
RARE = {"flaws", "wrong_types", "mend", "restore"}


def take(ledger: Ledger, id: str, token: str = "token") -> Lease:
    lease = ledger.take(id, "worker", token, 0)
    assert isinstance(lease, Lease)
    return lease


def slowest_ms(redis: Redis, command: bytes = b"EVALSHA") -> float:
    return max(each["duration"] for each in redis.slowlog_get(1000) if each["command"].startswith(command)) / 1000


@pytest.mark.parametrize("size", [10, 20_000, 1_000_000])
@pytest.mark.parametrize("error", ["EngineError: x", "EngineError: " + "long " * 1000])
def test_a_payload_survives_whatever_happens_to_its_header(redis: Redis, size: int, error: str) -> None:
    ledger, payload = Ledger(redis), b"line\n" * (size // 5)
    ledger.accept("a", "bulk", payload, 60)
    assert take(ledger, "a").payload == payload
    assert ledger.retry("a", "token", 0, error)
    lease = take(ledger, "a")
    assert lease.payload == payload
    assert lease.header.error == error
    assert ledger.expire("bulk", 10, LOST, redis.time()[0] * 1000, 9) == (["a"], [])
    assert ledger.renew("worker", [("a", "token")], 9, {}) == []
    assert ledger.headers(["a"])["a"].history[-1].error == error
    assert ledger.close(Ending("a", "token", b"{}", 60, "attempts_used_up", error))
    assert (redis.get(dead_key("a")) or b"").partition(b"\n")[2] == payload
    assert ledger.reopen("a", 60) == "bulk"
    assert take(ledger, "a").payload == payload


@pytest.mark.parametrize("size", [10, 3_800, 4_096, 20_000])
def test_an_entry_of_an_earlier_release_is_taken_whole(redis: Redis, size: int) -> None:
    # it has no spaces behind its header, which grows
    header = '{"state":"queued","lane":"bulk","accepted":1,"deadline":99999999999999,"attempt":0,"lost":0,"reply":""}'
    ledger, payload = Ledger(redis), b"line\n" * (size // 5)
    redis.set(entry_key("a"), header.encode() + b"\n" + payload)
    redis.zadd("vqa:queued:bulk", {"a": 1})
    redis.zadd("vqa:deadlines", {"a": 99999999999999})
    for attempt in range(3):
        assert take(ledger, "a", f"token{attempt}").payload == payload
        assert ledger.retry("a", f"token{attempt}", 0, "EngineError: " + "long " * 250)


def test_the_header_of_a_large_job_is_written_alone(redis: Redis) -> None:
    ledger = Ledger(redis)
    ledger.accept("a", "bulk", b"x" * 1_000_000, 60)
    size = redis.strlen(entry_key("a"))
    for attempt in range(3):
        take(ledger, "a", f"token{attempt}")
        assert ledger.retry("a", f"token{attempt}", 0, "EngineError: x")
        # in the room that was left for it
        assert redis.strlen(entry_key("a")) == size


def test_renewing_leases_of_large_jobs_does_not_hold_up_redis(redis: Redis) -> None:
    ledger, ids = Ledger(redis), [f"a{number}" for number in range(64)]
    for id in ids:
        ledger.accept(id, "bulk", b"x" * 1_000_000, 60)
        take(ledger, id)
    redis.config_set("slowlog-log-slower-than", 0)
    for _ in range(3):
        redis.slowlog_reset()
        assert ledger.renew("worker", [(id, "token") for id in ids], 60, {}) == []
        if slowest_ms(redis) < 50:
            return
    pytest.fail(f"a renewal took {slowest_ms(redis):.0f} ms")


def test_of_too_many_dead_letters_a_thousand_are_dropped_at_once(redis: Redis) -> None:
    with redis.pipeline(transaction=False) as pipe:
        for number in range(2500):
            pipe.zadd("vqa:dead", {f"a{number}": redis_time(redis) + number})
        pipe.execute()
    ledger = Ledger(redis, Limits(dead=10))
    for left in (1501, 502, 10, 10):
        ledger.dead_letter_message(f"malformed-{left}", "bulk", b"raw", "malformed: x")
        assert redis.zcard("vqa:dead") == left


def redis_time(redis: Redis) -> int:
    seconds: int = redis.time()[0]
    return seconds * 1000


def test_the_benchmark_measures_every_verb(redis: Redis) -> None:
    measured = {name.partition(":")[0] for name in Stage(redis, 1000, 10).run()}
    assert measured == set(re.findall(r"^function verbs\.(\w+)", SCRIPT, re.MULTILINE)) - RARE
