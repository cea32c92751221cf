"""Jobs that come slowly, from a generator: each is submitted, and each answer told, without waiting for many."""

import asyncio
import time
from collections.abc import Iterator

from redis import Redis

from producer import AsyncClient, Client, Job
from tests.producer.conftest import MakeJob, PlayedWorker, wait_until
from vqa.settings import QueueSettings


def one_by_one(redis: Redis, question: MakeJob, number: int) -> Iterator[Job]:
    """Each comes when the one before is on the queue, after a time in which nothing comes."""
    for done in range(number):
        wait_until(lambda done=done: redis.llen("bulk") == done, f"{done} jobs are on the queue", timeout_s=10)
        time.sleep(0.1)
        yield question(lane="bulk", timeout_s=5)


def test_the_first_job_does_not_wait_for_others(client: Client, redis: Redis, question: MakeJob) -> None:
    assert len(list(client.ask_many(one_by_one(redis, question, 4)))) == 4


def test_nor_does_it_with_asyncio(queue_settings: QueueSettings, redis: Redis, question: MakeJob) -> None:
    async def main() -> int:
        async with AsyncClient(queue_settings) as client, asyncio.timeout(60):
            return len([id async for id, _ in client.ask_many(one_by_one(redis, question, 4))])

    assert asyncio.run(main()) == 4


def test_many_are_submitted_as_they_come(client: Client, redis: Redis, question: MakeJob) -> None:
    assert len(client.submit_many(one_by_one(redis, question, 3))) == 3


def test_answers_are_told_while_jobs_still_come(
    client: Client, worker: PlayedWorker, echoing: None, question: MakeJob
) -> None:
    told: list[str] = []

    def coming() -> Iterator[Job]:
        until = time.monotonic() + 30
        # it ends when an answer was told
        while not told and time.monotonic() < until:
            time.sleep(0.06)
            yield question(lane="bulk")

    for id, _ in client.ask_many(coming()):
        told.append(id)
    assert 1 <= len(told) < 100
