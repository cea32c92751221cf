"""Bulk jobs of several tenants, answered by real workers."""

import json
import time
from collections import Counter
from pathlib import Path

from celery import Celery
from redis import Redis

from producer import Client
from tests.e2e.conftest import until
from tests.worker_process import StartWorker
from vqa import Answer, Job
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Lease
from vqa.ledger.sweep import Sweep
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


def job(tenant: str | None = None, **fields: object) -> Job:
    return Job(messages=[{"role": "user", "content": "?"}], lane="bulk", tenant=tenant, timeout_s=300, **fields)


def test_the_few_jobs_of_one_are_done_long_before_the_many_of_another(
    client: Client, redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    many = client.submit_many(job("many") for _ in range(1500))
    few = client.submit_many(job("few") for _ in range(10))
    assert client.counts()["bulk"]["waiting"] == 1510 - 64
    journal = str(tmp_path / "journal")
    for name in ("a", "b"):
        start_worker(name, VQA_SLOTS="8", VQA_ECHO_JOURNAL=journal)
    answered = Counter(type(outcome) for _, outcome in client.answers(many + few, timeout_s=100))
    assert answered == {Answer: 1510}
    begun = [line["id"] for line in map(json.loads, Path(journal).read_text().splitlines()) if line["event"] == "start"]
    assert len(begun) == len(set(begun)) == 1510
    assert max(begun.index(id) for id in few) < 400
    assert sum(client.counts()["bulk"].values()) == 0
    assert redis.keys("vqa:waiting:*") == redis.keys("vqa:turns:*") == redis.keys("vqa:flight:*") == []


def test_a_tenant_has_as_many_in_flight_as_it_may_and_does_not_wait_for_the_janitor(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    start_worker("a", VQA_SLOTS="8", VQA_TENANT_MOST="3")
    with Client(client.settings, tenant_most=3) as limited:
        ids = limited.submit_many(job("one", metadata={"echo_delay_s": "0.05"}) for _ in range(100))
        begun, most = time.monotonic(), 0
        while sum(client.counts()["bulk"].values()):
            most = max(most, int(redis.hget("vqa:flight:bulk", "one") or 0))
            assert time.monotonic() < begun + 60
        took_s = time.monotonic() - begun
        assert {type(outcome) for _, outcome in limited.answers(ids)} == {Answer}
    assert most == 3
    # a third of the jobs, one after the other, take 1.7 s; had the janitor fed them, 66
    assert took_s < 15


def test_a_worker_that_is_killed_before_it_publishes_what_it_fed_loses_nothing(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    ids = client.submit_many(job("one") for _ in range(200))
    # its messages are popped and its takes feed; then it is gone
    ledger = Ledger(redis)
    promoted = [id for id in ids[:40] for id in taken(ledger, id).promoted]
    assert len(promoted) == 33
    redis.delete("bulk")
    start_worker("a", VQA_SLOTS="8")
    assert Counter(type(outcome) for _, outcome in client.answers(ids, timeout_s=100)) == {Answer: 200}
    assert not redis.exists("vqa:flight:bulk")


def taken(ledger: Ledger, id: str) -> Lease:
    lease = ledger.take(id, "gone@here", f"token-{id}", 1)
    assert isinstance(lease, Lease)
    return lease


def test_whoever_cancels_publishes_what_moves_up(client: Client, redis: Redis) -> None:
    ids = client.submit_many(job() for _ in range(100))
    for id in ids[:64]:
        assert client.cancel(id)
    assert client.counts()["bulk"] == {"waiting": 3, "queued": 33, "leased": 0, "delayed": 0}
    assert redis.llen("bulk") == 64 + 33


def test_the_jobs_of_one_move_up_when_the_batch_of_another_is_cancelled(client: Client, redis: Redis) -> None:
    batch = client.batches.create([{"id": str(n), "messages": job().messages} for n in range(1000)], tenant="many")
    few = client.submit_many(job("few") for _ in range(100))
    redis.delete("bulk")
    assert batch.cancel() == 1000
    assert client.counts()["bulk"]["queued"] >= 32
    woken = {json.loads(message)["headers"]["id"] for message in redis.lrange("bulk", 0, -1)}
    assert {id for id, state in client.states(few).items() if state.state == "queued"} <= woken


def test_the_janitor_queues_more_when_workers_have_joined(
    client: Client, redis: Redis, app: Celery, queue_settings: QueueSettings
) -> None:
    client.submit_many(job() for _ in range(100))
    redis.set("vqa:capacity", 50)
    with connect(queue_settings) as connection:
        assert Sweep(connection, app, queue_settings).run(lease_check_ms=None).promoted == 36
    assert client.counts()["bulk"]["queued"] == redis.llen("bulk") == 100


def test_another_apps_job_of_a_tenant_runs_whoever_waits(
    client: Client, other_app: Celery, redis: Redis, start_worker: StartWorker
) -> None:
    client.submit_many(job("one", metadata={"echo_delay_s": "3600"}) for _ in range(100))
    redis.delete("bulk")
    body = {"messages": [{"role": "user", "content": "from elsewhere"}], "tenant": "one"}
    # before the worker starts, or its janitor may publish the jobs above, whose messages are lost, before this one
    sent = other_app.send_task("vqa.answer", args=[body], queue="bulk")
    # those are then what it runs at the test's end
    start_worker("a", VQA_SLOTS="2", VQA_DRAIN_S="1")
    until(lambda: client.states([sent.id])[sent.id].state == "answered")
