"""The inbox: plain Redis commands, as a program in another language sends them, against real workers."""

import base64
import hashlib
import json
from collections import Counter
from typing import Any, cast

from redis import Redis

from producer import Client
from tests.e2e.conftest import until
from tests.worker_process import ROOT, StartWorker, WorkerProcess
from vqa.inbox import GROUP, INBOX, OUTBOX
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import DEADLINES

SECRET = "the-secret-question"
IMAGE = (ROOT / "examples" / "images" / "shape-07.png").read_bytes()
REPLY = "vqa:reply:test"


def job(id: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": SECRET}]
    return {"id": id, "messages": [{"role": "user", "content": content}]} | fields


def add(redis: Redis, job: object, **fields: Any) -> str:
    entry: dict[Any, Any] = {"job": job if isinstance(job, str | bytes) else json.dumps(job), "reply": REPLY} | fields
    return cast(bytes, redis.xadd(INBOX, entry)).decode()


def outcome(redis: Redis, id: str) -> dict[str, Any]:
    """Wait for it as the documentation says."""
    until(lambda: redis.blpop([REPLY], 1) is not None)
    return cast(dict[str, Any], json.loads(cast(bytes, redis.get(outcome_key(id)))))


def refusals(redis: Redis) -> dict[str, dict[str, str]]:
    """By entry."""
    listed = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange(OUTBOX))
    told = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in listed]
    return {fields["entry"]: fields for fields in told}


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


BAD: dict[str, tuple[bytes, str]] = {
    "pickle": (b"\x80\x04\x95\x1a\x00", "job: it is not UTF-8"),
    "zeros": (b"\0" * 1000, "job: it is not JSON"),
    "nested": (b"[" * 100_000, "job: it is not JSON"),
    "many": (b"[" + b"{}," * 300_000 + b"{}]", "job: it has too many values"),
    "list": (b"[1]", "job: it is not a JSON object"),
    "no id": (json.dumps({"messages": []}).encode(), "id: required"),
    "no messages": (json.dumps({"id": "no-messages"}).encode(), "messages: Field required"),
    "wrong type": (json.dumps(job("wrong", seed=SECRET)).encode(), "seed: "),
    "a path": (json.dumps(job("path", {"type": "image", "image": "/etc/passwd"})).encode(), "messages"),
    "unknown field": (json.dumps(job("unknown", temprature=1)).encode(), "temprature: "),
}


def test_no_entry_stops_a_worker_and_each_refused_one_is_told(redis: Redis, start_worker: StartWorker) -> None:
    worker = start_worker()
    entries = {add(redis, raw): said for raw, said in BAD.values()}
    entries[cast(bytes, redis.xadd(INBOX, {b"\xff": b"\xfe"})).decode()] = "job: missing"
    add(redis, job("good"))
    until(lambda: redis.get(outcome_key("good")))
    until(lambda: len(refusals(redis)) == len(entries))
    for entry, said in entries.items():
        told = refusals(redis)[entry]
        assert told["code"] == "invalid_job"
        assert told["message"].startswith(said)
        if told["id"]:
            failed = json.loads(cast(bytes, redis.get(outcome_key(told["id"]))))
            assert (failed["status"], failed["result"]["exc_type"]) == ("FAILURE", "InvalidJob")
    assert {*cast(list[bytes], redis.lrange(REPLY, 0, -1))} == {b"good", b"no-messages", b"wrong", b"path", b"unknown"}
    until(lambda: redis.xlen(INBOX) == 0)
    assert SECRET not in worker.log.read_text() + str(refusals(redis))
    assert "Traceback" not in worker.log.read_text()


def test_the_inbox_goes_on_when_its_keys_are_overwritten_or_lost(redis: Redis, start_worker: StartWorker) -> None:
    worker = start_worker()
    add(redis, job("before"))
    assert outcome(redis, "before")["status"] == "SUCCESS"
    redis.set(INBOX, "another program's")
    redis.set(OUTBOX, "another program's")
    until(lambda: redis.exists(f"vqa:damaged:{INBOX}", f"vqa:damaged:{OUTBOX}") == 2)
    add(redis, job("after"))
    assert outcome(redis, "after")["status"] == "SUCCESS"
    redis.delete(INBOX)
    refused = add(redis, b"no job")
    until(lambda: refused in refusals(redis))
    assert worker.log.read_text().count("the inbox is not read") <= 2
    assert "Traceback" not in worker.log.read_text()


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
    worker.kill()
    listed = cast(list[dict[str, Any]], redis.xinfo_consumers(INBOX, GROUP))
    [name] = [each["name"] for each in listed if each["name"].startswith(f"{worker.name}@".encode())]
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


def test_an_answer_is_read_while_it_is_generated(redis: Redis, start_worker: StartWorker) -> None:
    start_worker()
    add(redis, job("streamed", metadata={"echo_delay_s": "2"}), stream="1")
    listed = cast(list[Any], redis.xread({"vqa:stream:streamed": "0"}, block=60_000))
    [_, [(_, fields), *_]] = listed[0]
    assert fields[b"text"]
    # the reply list says that there is something new, also before the end
    assert redis.blpop([REPLY], 60)
    assert redis.get(outcome_key("streamed")) is None
    until(lambda: redis.get(outcome_key("streamed")))


def test_a_client_reads_the_answer_of_a_job_from_the_inbox(
    redis: Redis, start_worker: StartWorker, client: Client
) -> None:
    start_worker()
    add(redis, job("shared"))
    until(lambda: redis.xlen(INBOX) == 0)
    assert client.answer("shared", 60).id == "shared"
