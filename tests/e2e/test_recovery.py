"""Workers that die, crash and leave: what becomes of their jobs, and of those that share a process with a bad one."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from producer import Client
from tests.worker_process import StartWorker, WorkerProcess
from vqa import Job, JobGivenUp
from vqa.ledger.commands import dead_key
from vqa.ledger.records import Header

WAIT_S = 60.0


def job(**fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": "What is it?"}], **{"timeout_s": 300, **fields})


def until(done: Callable[[], object], worker: WorkerProcess | None = None) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, worker and worker.log.read_text()
        time.sleep(0.02)


def leased(client: Client, count: int) -> Callable[[], bool]:
    return lambda: client.counts()["interactive"]["leased"] >= count


def test_a_job_whose_message_redis_gave_to_nobody_is_answered(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    ids = client.submit_many([job(), job(lane="bulk")])
    assert redis.rpop("interactive")
    assert redis.rpop("bulk")
    start_worker()
    for id in ids:
        assert client.answer(id, timeout_s=WAIT_S).attempt == 1


@pytest.mark.timeout(240)
def test_a_job_that_kills_its_workers_is_given_up_and_its_neighbours_are_answered(
    client: Client, redis: Redis, start_worker: StartWorker
) -> None:
    innocents = [f"innocent-{number}" for number in range(4)]
    for attempt in (1, 2, 3):
        worker = start_worker(f"victim{attempt}", VQA_LEASE_S="1", VQA_SLOTS="8")
        if attempt == 1:
            client.submit_many(job(id=id, metadata={"echo_delay_s": "1.5"}) for id in innocents)
            until(leased(client, 4), worker)
            client.submit(job(id="poison", metadata={"echo_delay_s": "0.5", "echo_fail": "exit"}))
        worker.process.wait(WAIT_S)
    start_worker("witness", VQA_LEASE_S="1")
    with pytest.raises(JobGivenUp, match="worker_lost") as caught:
        client.answer("poison", timeout_s=WAIT_S)
    assert caught.value.attempts == 3
    for id in innocents:
        assert client.answer(id, timeout_s=WAIT_S).attempt <= 3
    letter = Header.parse((redis.get(dead_key("poison")) or b"").partition(b"\n")[0])
    assert letter.reason == "worker_lost"
    assert [(past.attempt, past.worker.partition("@")[0]) for past in letter.history] == [
        (1, "victim1"),
        (2, "victim2"),
        (3, "victim3"),
    ]


def test_a_crash_counts_only_against_the_job_that_raised_it(client: Client, start_worker: StartWorker) -> None:
    crashing = start_worker("crashing", VQA_ECHO_DELAY_S="100")
    client.submit(job(id="innocent", retry={"attempts": 1}))
    until(leased(client, 1), crashing)
    fails_once = {"echo_delay_s": "0.2", "echo_fail": "crash", "echo_fail_attempts": "1"}
    client.submit(job(id="crash", metadata=fails_once, retry={"attempts": 1}))
    assert crashing.process.wait(WAIT_S) == 70
    # back at once: no lease has to run out
    counts = client.counts()["interactive"]
    assert (counts["queued"], counts["leased"]) == (2, 0)
    start_worker("heir")
    innocent, crash = (client.answer(id, timeout_s=WAIT_S) for id in ("innocent", "crash"))
    assert (innocent.attempt, innocent.last_error) == (1, None)
    assert (crash.attempt, crash.last_error) == (2, "EngineError: the engine crashed (RuntimeError)")


def test_a_job_that_always_crashes_the_engine_is_given_up(client: Client, start_worker: StartWorker) -> None:
    client.submit(job(id="poison", metadata={"echo_fail": "crash"}))
    for attempt in (1, 2, 3):
        assert start_worker(f"victim{attempt}", ready=False).process.wait(WAIT_S) == 70
    with pytest.raises(JobGivenUp, match="worker_lost: given up after 3 attempts"):
        client.answer("poison", timeout_s=WAIT_S)


def test_a_worker_that_is_asked_twice_to_stop_gives_back_at_once(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker("asked-twice", VQA_ECHO_DELAY_S="100", VQA_DRAIN_S="100")
    id = client.submit(job())
    until(leased(client, 1), worker)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "draining: 1 running jobs" in worker.log.read_text(), worker)
    asked = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(WAIT_S) == 0
    assert time.monotonic() - asked < 10
    assert client.counts()["interactive"] == {"waiting": 0, "queued": 1, "leased": 0, "delayed": 0}
    start_worker("heir")
    assert client.answer(id, timeout_s=WAIT_S).attempt == 1


def test_a_worker_that_was_stopped_for_longer_than_its_lease_changes_nothing_when_it_comes_back(
    client: Client, start_worker: StartWorker
) -> None:
    paused = start_worker("paused", VQA_LEASE_S="1", VQA_ECHO_DELAY_S="100")
    id = client.submit(job())
    until(leased(client, 1), paused)
    paused.process.send_signal(signal.SIGSTOP)
    try:
        start_worker("heir", VQA_LEASE_S="1")
        answer = client.answer(id, timeout_s=WAIT_S)
    finally:
        paused.process.send_signal(signal.SIGCONT)
    assert (answer.worker.partition("@")[0], answer.attempt) == ("heir", 2)
    until(lambda: "no longer this worker's" in paused.log.read_text() or "dropped" in paused.log.read_text(), paused)
    assert client.answer(id, timeout_s=WAIT_S) == answer
    assert paused.stop() == 0
