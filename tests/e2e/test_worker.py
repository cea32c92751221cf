"""Jobs through a real Redis and real Celery workers; the echo engine stands where the model would."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from producer import Client
from tests.worker_process import StartWorker
from vqa import Cancelled, DeadlineExceeded, Job

WAIT_S = 60.0


def job(**fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": "What is it?"}], **fields)


def test_the_same_id_submitted_twice_runs_once(client: Client, start_worker: StartWorker) -> None:
    twice = job(id="twice", metadata={"echo_delay_s": "0.5"})
    client.submit(twice)
    worker = start_worker()
    client.submit(twice)
    answer = client.answer("twice", timeout_s=WAIT_S)
    client.submit(twice)
    assert client.answer("twice", timeout_s=WAIT_S) == answer
    assert answer.attempt == 1
    assert worker.stop() == 0
    assert worker.log.read_text().count("succeeded") == 1


def test_a_job_past_its_deadline_never_reaches_the_engine(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    client.submit(job(id="late", timeout_s=0.2))
    client.submit(job(id="early"))
    time.sleep(0.3)
    start_worker()
    with pytest.raises(DeadlineExceeded) as caught:
        client.answer("late", timeout_s=WAIT_S)
    assert caught.value.attempts == 0
    assert client.answer("early", timeout_s=WAIT_S)


def test_cancelling_ends_a_job_that_is_being_answered_and_frees_its_slot(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker(VQA_SLOTS="1")
    id = client.submit(job(timeout_s=120, metadata={"echo_delay_s": "100"}))
    until = time.monotonic() + WAIT_S
    while client.counts()["interactive"]["leased"] == 0:
        assert time.monotonic() < until
    assert client.cancel(id)
    with pytest.raises(Cancelled):
        client.answer(id, timeout_s=WAIT_S)
    assert client.answer(client.submit(job()), timeout_s=WAIT_S).attempt == 1


def test_a_killed_workers_job_is_answered_by_another(client: Client, start_worker: StartWorker) -> None:
    doomed = start_worker("doomed", VQA_LEASE_S="2", VQA_ECHO_DELAY_S="100")
    id = client.submit(job(timeout_s=300))
    until = time.monotonic() + WAIT_S
    while client.counts()["interactive"]["leased"] == 0:
        assert time.monotonic() < until
    doomed.kill()
    start_worker("heir", VQA_LEASE_S="2")
    answer = client.answer(id, timeout_s=WAIT_S)
    assert answer.worker.startswith("heir@")
    assert (answer.attempt, answer.last_error) == (2, "WorkerLost: its lease ran out")


def test_a_worker_is_not_ready_before_its_model_is_loaded(client: Client, start_worker: StartWorker) -> None:
    client.submit(job(id="waits"))
    worker = start_worker("slow", ready=False, VQA_ECHO_LOAD_S="3")
    until = time.monotonic() + WAIT_S
    # the slot plan is the last line before loading
    while "16 slots" not in worker.log.read_text():
        assert time.monotonic() < until
    assert client.workers() == []
    assert client.answer("waits", timeout_s=WAIT_S).timings.queued_s > 3


def test_a_worker_that_fails_to_start_in_an_unforeseen_way_takes_nothing(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{damaged")
    client.submit(job(id="waits"))
    damaged = start_worker("damaged", ready=False, VQA_ENGINE="pipeline", VQA_MODEL=str(tmp_path))
    assert damaged.process.wait(WAIT_S) == 78
    start_worker("heir")
    assert client.answer("waits", timeout_s=WAIT_S).attempt == 1


def test_interactive_jobs_are_taken_before_bulk_ones_and_foreign_ones_last(
    client: Client, other_app: Celery, start_worker: StartWorker
) -> None:
    foreign = other_app.send_task("vqa.answer", [{"messages": [{"role": "user", "content": "?"}]}])
    client.submit(job(id="bulk", lane="bulk"))
    client.submit(job(id="interactive"))
    worker = start_worker(VQA_SLOTS="1", VQA_ECHO_DELAY_S="0.3")
    foreign.get(timeout=WAIT_S)
    worker.stop()
    received = [line for line in worker.log.read_text().splitlines() if "] received" in line]
    # on a slow machine the sweep repeats a message that has waited for 5 s
    first = dict.fromkeys(line.partition("[")[2].partition("]")[0] for line in received)
    assert list(first) == ["interactive", "bulk", foreign.id]


def test_a_stopping_worker_finishes_what_it_holds_and_tells_flower(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    worker = start_worker(VQA_SLOTS="2")
    with redis.pubsub() as events:
        events.psubscribe("/0.celeryev/*")
        ids = client.submit_many(job(metadata={"echo_delay_s": "2"}) for _ in range(2))
        until = time.monotonic() + WAIT_S
        while client.counts()["interactive"]["leased"] < 2:
            assert time.monotonic() < until
        assert worker.stop() == 0
        assert {client.states([id])[id].state for id in ids} == {"answered"}
        succeeded: set[str] = set()
        while succeeded != set(ids):
            assert time.monotonic() < until, succeeded
            succeeded |= _succeeded(events.get_message(timeout=0.2))


def _succeeded(message: Any) -> set[str]:
    if message is None or message["type"] != "pmessage":
        return set()
    body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
    return {event["uuid"] for event in body if event["type"] == "task-succeeded"} if isinstance(body, list) else set()


def test_a_worker_that_cannot_finish_in_time_gives_its_jobs_back_uncounted(
    client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker("hasty", VQA_DRAIN_S="1", VQA_ECHO_DELAY_S="100")
    id = client.submit(job(timeout_s=300))
    until = time.monotonic() + WAIT_S
    while client.counts()["interactive"]["leased"] == 0:
        assert time.monotonic() < until
    assert worker.stop() == 0
    start_worker("heir")
    answer = client.answer(id, timeout_s=WAIT_S)
    assert answer.worker.startswith("heir@")
    assert answer.attempt == 1


def test_nothing_is_left_in_redis_but_what_has_a_time_to_live(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    worker = start_worker()
    ids = client.submit_many(job(lane="bulk") for _ in range(20))
    assert len(list(client.answers(ids, timeout_s=WAIT_S))) == 20
    worker.stop()
    ours = [key for key in redis.keys("vqa:*") if redis.ttl(key) < 0]
    # the inbox stays for its consumer group, without entries
    assert ours == [b"vqa:inbox"]
    assert redis.xlen("vqa:inbox") == 0


def test_a_foreign_job_is_accepted_on_a_full_lane_too(
    client: Client, other_app: Celery, start_worker: StartWorker
) -> None:
    start_worker(VQA_SLOTS="4", VQA_QUEUE_MOST="1")
    client.submit(job(lane="bulk", metadata={"echo_delay_s": "3"}))
    sent = {"messages": [{"role": "user", "content": "What is it?"}]}
    assert other_app.send_task("vqa.answer", [sent], queue="bulk").get(timeout=WAIT_S)["text"]
