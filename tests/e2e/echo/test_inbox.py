"""Entries of the inbox, good and bad, and its keys in other programs' hands: the worker goes on."""

import json
from typing import Any, cast

import pytest
from redis import Redis

from producer import Client
from tests.e2e.conftest import until
from tests.e2e.inbox import REPLY, SECRET, add, job, outcome
from tests.worker_process import WorkerProcess
from vqa.inbox import INBOX, OUTBOX
from vqa.ledger.commands import outcome_key


@pytest.fixture(autouse=True)
def _nothing_was_told_before(redis: Redis) -> None:
    redis.delete(REPLY, OUTBOX)


def refusals(redis: Redis) -> dict[str, dict[str, str]]:
    """By entry."""
    listed = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange(OUTBOX))
    told = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in listed]
    return {fields["entry"]: fields for fields in told}


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


def test_no_entry_stops_a_worker_and_each_refused_one_is_told(redis: Redis, worker: WorkerProcess) -> None:
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


def test_the_inbox_goes_on_when_its_keys_are_overwritten_or_lost(redis: Redis, worker: WorkerProcess) -> None:
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


def test_an_answer_is_read_while_it_is_generated(redis: Redis, client: Client) -> None:
    add(redis, job("streamed", metadata={"echo_delay_s": "100"}, timeout_s=200), stream="1")
    listed = cast(list[Any], redis.xread({"vqa:stream:streamed": "0"}, block=60_000))
    [_, [(_, fields), *_]] = listed[0]
    assert fields[b"text"]
    # the reply list says that there is something new, also before the end
    assert redis.blpop([REPLY], 60)
    assert redis.get(outcome_key("streamed")) is None
    # so that it leaves its slot
    assert client.cancel("streamed")


def test_a_client_reads_the_answer_of_a_job_from_the_inbox(redis: Redis, client: Client) -> None:
    add(redis, job("shared"))
    until(lambda: redis.xlen(INBOX) == 0)
    assert client.answer("shared", 60).id == "shared"
