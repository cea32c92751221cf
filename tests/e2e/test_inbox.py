"""The inbox: plain Redis commands, as a program in another language sends them, against real workers."""

import base64
import hashlib
import json
from collections import Counter
from typing import Any, cast

from redis import Redis

from tests.e2e.conftest import until
from tests.e2e.inbox import REPLY, add, job, outcome
from tests.worker_process import ROOT, StartWorker, WorkerProcess
from vqa.inbox import GROUP, INBOX, OUTBOX
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import DEADLINES

IMAGE = (ROOT / "examples" / "images" / "shape-07.png").read_bytes()


def test_entries_written_before_any_worker_started_are_answered(redis: Redis, start_worker: StartWorker) -> None:
    reference = "sha256:" + hashlib.sha256(IMAGE).hexdigest()
    redis.set(f"vqa:image:{reference}", IMAGE, ex=60, nx=True)
    add(redis, job("by-reference", {"type": "image", "image": reference}))
    start_worker()
    answer = outcome(redis, "by-reference")
    assert answer["status"] == "SUCCESS"
    assert answer["result"]["images"][0]["source_width"] == 210
    assert redis.ttl(f"vqa:image:{reference}") > 3600
    until(lambda: redis.xlen(INBOX) == 0)
    url = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    add(redis, job("by-value", {"type": "image", "image": url}, lane="bulk", tenant="one"))
    assert outcome(redis, "by-value")["status"] == "SUCCESS"


def test_a_draining_worker_reads_no_more_and_another_one_does(redis: Redis, start_worker: StartWorker) -> None:
    draining = start_worker("draining")
    add(redis, job("long", metadata={"echo_delay_s": "60"}))
    until(lambda: redis.zcard("vqa:leased:interactive"))
    draining.process.terminate()
    until(lambda: redis.xinfo_consumers(INBOX, GROUP) == [])
    add(redis, job("next"))
    assert draining.process.poll() is None
    assert redis.xlen(INBOX) == 1
    start_worker("other")
    assert outcome(redis, "next")["status"] == "SUCCESS"
    draining.kill()


def kill_with_entries(redis: Redis, worker: WorkerProcess) -> None:
    """Kill it; and as if it had died in the moment after Redis sent it ten more entries, half of them known by now."""

    def names() -> list[bytes]:
        listed = cast(list[dict[str, Any]], redis.xinfo_consumers(INBOX, GROUP))
        return [each["name"] for each in listed if each["name"].startswith(f"{worker.name}@".encode())]

    # a worker that has just got ready may not have read yet
    until(names)
    worker.kill()
    [name] = names()
    with redis.pipeline(transaction=True) as pipe:
        for number in range(10):
            again = job(f"job-{number}" if number < 5 else f"{worker.name}-{number}", lane="bulk")
            pipe.xadd(INBOX, {"job": json.dumps(again), "reply": REPLY})
        pipe.xreadgroup(GROUP, name, {INBOX: ">"}, count=200)
        assert pipe.execute()[-1]


def test_killed_workers_lose_no_entry_and_answer_each_once(
    redis: Redis, start_worker: StartWorker, redis_url: str
) -> None:
    ids = {f"job-{number}" for number in range(200)}
    held = {f"victim-{victim}-{number}" for victim in range(2) for number in range(5, 10)}
    told: Counter[str] = Counter()
    own = {"VQA_LEASE_S": "1", "VQA_SLOTS": "4"}
    with Redis.from_url(redis_url) as hears, hears.pubsub(ignore_subscribe_messages=True) as endings:
        endings.psubscribe("celery-task-meta-*")
        endings.get_message(timeout=1)
        start_worker("steady", **own)
        victims = [start_worker(f"victim-{number}", **own) for number in range(2)]
        # written while workers read
        for position, id in enumerate(sorted(ids)):
            add(redis, job(id, lane="bulk"))
            if victims and position % 60 == 59:
                kill_with_entries(redis, victims.pop())
        # a process of the same name goes on with what the first one held
        start_worker("victim-0", ready=False, **own)
        while sum(told.values()) < len(ids | held):
            message = endings.get_message(timeout=60)
            assert message, f"{(ids | held) - told.keys()} were never answered"
            told[message["channel"].decode().removeprefix("celery-task-meta-")] += 1
        until(lambda: redis.xlen(INBOX) == 0)
    assert told == Counter(ids | held)
    assert all(b'"SUCCESS"' in cast(bytes, redis.get(outcome_key(id))) for id in ids | held)
    assert {id.decode() for id in cast(list[bytes], redis.lrange(REPLY, 0, -1))} == ids | held
    assert redis.zcard(DEADLINES) == 0
    assert cast(dict[str, Any], redis.xpending(INBOX, GROUP))["pending"] == 0
    assert not redis.exists(OUTBOX)
