"""Clocks that step (NTP, a failover to a host with another time): no job is lost, given up or answered twice."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis

from producer import Client
from tests.e2e.conftest import WAIT_S, until
from tests.faketime import SLEEP, SteppedClock
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, WorkerProcess
from vqa import Job
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings

LEASE_S = 3.0
SLOTS = 4
#: longer than a janitor's round, so that a lease which is judged wrongly costs a second run
DELAY_S = 3.0
#: no step makes a job overdue
TIMEOUT_S = 20_000.0
STEPS_S = (-2, 2, -30, 30, -3600, 3600)

pytestmark = pytest.mark.timeout(180)


class Stage:
    """A Redis server whose clock steps, two workers, and what their engines did."""

    def __init__(self, folder: Path, server: RedisServer, clock: SteppedClock) -> None:
        self.clock = clock
        self._folder = folder
        self._url = server.url
        self._journal = folder / "journal"
        self.redis = Redis(port=server.port)
        self.ledger = Ledger(self.redis)
        self.client = Client(QueueSettings(redis_url=server.url, lease_s=LEASE_S))

    def work(self, name: str, kind: type[WorkerProcess] = WorkerProcess, **variables: str) -> WorkerProcess:
        own = {"VQA_LEASE_S": str(LEASE_S), "VQA_SLOTS": str(SLOTS), "VQA_ECHO_JOURNAL": str(self._journal)}
        worker = kind(self._url, name, self._folder / f"{name}.log", **own | variables)
        worker.wait_ready(self.ledger)
        return worker

    def submit(self, count: int, delay_s: float = DELAY_S) -> list[str]:
        metadata = {"echo_delay_s": str(delay_s)}
        question = [{"role": "user", "content": "?"}]
        return self.client.submit_many(
            Job(messages=question, lane=lane, metadata=metadata, timeout_s=TIMEOUT_S)
            for lane in ("interactive", "bulk")
            for _ in range(count // 2)
        )

    def step_to_now(self) -> None:
        """Let Redis have this machine's clock, and wait until it does: what it accepts before has other deadlines."""
        self.clock.step_to(0)
        until(lambda: abs(self._redis_time() - time.time()) < 1)

    def _redis_time(self) -> float:
        seconds, microseconds = self.redis.time()
        return float(seconds + microseconds / 1e6)

    def await_leases(self, count: int) -> None:
        until(lambda: sum(lane["leased"] for lane in self.client.counts().values()) >= count)

    def runs(self, ids: Sequence[str]) -> Counter[str]:
        """How often engines began each job."""
        events = map(json.loads, self._journal.read_text().splitlines())
        return Counter(event["id"] for event in events if event["event"] == "start" and event["id"] in ids)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("clocks")
    clock = SteppedClock(folder / "clock")
    with RedisServer(folder / "redis", program=clock.server) as server:
        stage = Stage(folder, server, clock)
        workers = [stage.work("one"), stage.work("two")]
        yield stage
        for worker in workers:
            worker.stop()
        stage.client.close()
        stage.redis.close()


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_step_of_redis_clock_costs_no_attempt_and_no_second_run(stage: Stage, step_s: int) -> None:
    stage.step_to_now()
    ids = stage.submit(2 * SLOTS + 4)
    stage.await_leases(2 * SLOTS)
    stage.clock.step_to(step_s)
    started = time.monotonic()
    answers = [stage.client.answer(id, timeout_s=WAIT_S) for id in ids]
    # commands that block in Redis would block for the step as well
    assert time.monotonic() - started < 30
    assert {answer.attempt for answer in answers} == {1}, stage.log("one") + stage.log("two")
    assert set(stage.runs(ids).values()) == {1}
    assert all(answer.timings.queued_s < WAIT_S or step_s > 0 for answer in answers)


def test_another_client_hears_of_an_answer_though_the_clock_was_set_back(stage: Stage) -> None:
    stage.step_to_now()
    [id, _] = stage.submit(2, delay_s=4)
    stage.await_leases(2)
    started = time.monotonic()
    with Client(stage.client.settings) as other, ThreadPoolExecutor(1) as thread:
        # it does not get ids pushed to its reply list, and polls
        answer = thread.submit(other.answer, id, timeout_s=WAIT_S)
        stage.clock.step_to(-3600)
        assert answer.result().attempt == 1
    assert time.monotonic() - started < 12


def test_jobs_of_a_worker_that_vanishes_return_soon_though_the_clock_was_set_back(stage: Stage) -> None:
    stage.step_to_now()
    victim = stage.work("victim")
    ids = stage.submit(3 * SLOTS, delay_s=2)
    stage.await_leases(3 * SLOTS)
    victim.kill()
    # the janitor was in it
    stage.redis.set("vqa:janitor", "gone", px=5000)
    stage.clock.step_to(-3600)
    started = time.monotonic()
    answers = [stage.client.answer(id, timeout_s=WAIT_S) for id in ids]
    assert {answer.attempt for answer in answers} == {1, 2}
    # a lease to notice the step, one to notice the worker, rounds, and the jobs themselves
    assert time.monotonic() - started < 2 * LEASE_S + 15
    assert "Redis's clock was set back" in stage.log("one") + stage.log("two")


class SteppedWorker(WorkerProcess):
    program = ("-c", f"{SLEEP}; import sys; from workers.celery_worker import main; main(*sys.argv[1:])")


PRODUCER = f"""
{SLEEP}
import sys
from producer import Client, Job

with Client(redis_url=sys.argv[1]) as client:
    question, slow = [{{"role": "user", "content": "?"}}], {{"echo_delay_s": "{DELAY_S}"}}
    ids = client.submit_many(Job(messages=question, metadata=slow, timeout_s=60) for _ in range({3 * SLOTS}))
    print("sent", flush=True)
    print(*ids)
    print(*(answer.attempt for _, answer in client.answers(ids, timeout_s=60)))
"""


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_steps_of_a_workers_and_a_producers_clock_change_nothing(stage: Stage, tmp_path: Path, step_s: int) -> None:
    stage.step_to_now()
    workers, producers = (SteppedClock(tmp_path / name) for name in ("worker", "producer"))
    worker = stage.work("stepped", SteppedWorker, **workers.environment)
    command = ["env", *(f"{name}={value}" for name, value in producers.environment.items())]
    command += [sys.executable, "-c", PRODUCER, stage.client.settings.redis_url]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as producer:
            assert producer.stdout
            assert producer.stdout.readline() == "sent\n"
            stage.await_leases(3 * SLOTS)
            workers.step_to(step_s)
            producers.step_to(-step_s)
            ids, attempts = (line.split() for line in producer.stdout)
    finally:
        worker.stop()
    assert attempts == ["1"] * 3 * SLOTS
    assert stage.runs(ids) == Counter(ids)
    assert any(f"{id}] succeeded" in stage.log("stepped") for id in ids)
