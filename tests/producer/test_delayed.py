"""Thousands of jobs that wait for a retry are in nobody's way, and come back when they are due."""

import statistics
import time

from redis import Redis

from producer import Answer, Client, Job
from tests.producer.conftest import MakeJob, PlayedWorker, wait_until
from tests.worker_process import StartWorker

#: of these the worker itself makes the first attempts
OURS = 8_000
ITS = 2_000
#: of the worker's come back within BACK_S
FEW = 200
BACK_S = 6.0
#: of 80,000 s drawn at random next to none is due within this test
LONG_S = 80_000


def median_s(client: Client, question: MakeJob) -> float:
    """How long an interactive question takes, in the middle."""
    taken = []
    for _ in range(21):
        begun = time.monotonic()
        client.answer(client.submit(question()), timeout_s=30)
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


def failing(number: int, longest_s: float) -> Job:
    """A job whose first attempt fails, and whose second is due within `longest_s`."""
    return Job(
        id=f"q{number}",
        messages=[{"role": "user", "content": "?"}],
        lane="bulk",
        retry={"attempts": 2, "base_s": longest_s, "cap_s": longest_s},
        metadata={"echo_fail": "EngineError", "echo_fail_attempts": "1"},
    )


def test_ten_thousand_delayed_jobs_hold_no_thread_and_come_back_when_due(
    client: Client, worker: PlayedWorker, start_worker: StartWorker, question: MakeJob, redis: Redis
) -> None:
    ours = client.submit_many(failing(number, LONG_S) for number in range(OURS))
    for id in ours:
        assert worker.ledger.retry(id, worker.take(id).token, LONG_S, "EngineError: once")
    redis.delete("bulk")
    start_worker("a", VQA_SLOTS="4")
    usual = median_s(client, question)
    client.submit_many(failing(OURS + number, LONG_S) for number in range(ITS))
    wait_until(lambda: client.counts()["bulk"]["delayed"] >= OURS + ITS - 5, "all are delayed", timeout_s=90)
    few = client.submit_many(failing(OURS + ITS + number, BACK_S) for number in range(FEW))
    wait_until(lambda: client.counts()["bulk"]["delayed"] >= OURS + ITS + FEW / 4, "theirs begin")
    assert client.counts()["bulk"]["delayed"] > 10_000
    assert median_s(client, question) < 2 * usual + 0.05
    # no thread of the worker's six waits with them
    wait_until(lambda: client.counts()["bulk"]["leased"] == 0, "nothing runs")
    outcomes = dict(client.answers(few, timeout_s=60))
    assert {(type(outcome), getattr(outcome, "attempt", 0)) for outcome in outcomes.values()} == {(Answer, 2)}
    # time passes: some more are due
    due = ours[:300]
    redis.zadd("vqa:delayed:bulk", dict.fromkeys(due, 0), xx=True)
    assert {type(outcome) for _, outcome in client.answers(due, timeout_s=60)} == {Answer}
