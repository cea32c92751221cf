"""Thousands of jobs that wait for a retry are in nobody's way, and come back when they are due."""

import statistics
import time

from redis import Redis

from producer import Answer, Client, Job
from tests.producer.conftest import MakeJob, PlayedWorker, wait_until
from tests.worker_process import StartWorker

OURS = 8_000
#: of these the worker itself makes the first attempts; a few more than 10,000 together, for of 80,000 s drawn at
#: random next to none is due within this test
ITS = 2_050
#: of the worker's come back within BACK_S
FEW = 200
BACK_S = 6.0
LONG_S = 80_000


def usual_s(client: Client, question: MakeJob) -> float:
    """How long an interactive question takes: the median of 21, the least of three times.

    What else runs on the machine can only add to it, and seldom for all three.
    """
    return min(statistics.median(_taken_s(client, question) for _ in range(21)) for _ in range(3))


def _taken_s(client: Client, question: MakeJob) -> float:
    begun = time.monotonic()
    client.answer(client.submit(question()), timeout_s=30)
    return time.monotonic() - begun


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
    before = start_worker("a", VQA_SLOTS="4")
    without = usual_s(client, question)
    assert before.stop() == 0
    ours = client.submit_many(failing(number, LONG_S) for number in range(OURS))
    for id in ours:
        assert worker.ledger.retry(id, worker.take(id).token, LONG_S, "EngineError: once")
    redis.delete("bulk")
    start_worker("b", VQA_SLOTS="4")
    client.submit_many(failing(OURS + number, LONG_S) for number in range(ITS))
    wait_until(lambda: client.counts()["bulk"]["delayed"] > 10_000, "more than 10,000 wait", timeout_s=90)
    # no slot of the worker's four waits with them
    wait_until(lambda: client.counts()["bulk"]["leased"] == 0, "nothing runs")
    assert usual_s(client, question) < 2 * without + 0.05
    few = client.submit_many(failing(OURS + ITS + number, BACK_S) for number in range(FEW))
    outcomes = dict(client.answers(few, timeout_s=60))
    assert {(type(outcome), getattr(outcome, "attempt", 0)) for outcome in outcomes.values()} == {(Answer, 2)}
    # time passes: some more are due
    due = ours[:300]
    redis.zadd("vqa:delayed:bulk", dict.fromkeys(due, 0), xx=True)
    assert {type(outcome) for _, outcome in client.answers(due, timeout_s=60)} == {Answer}
