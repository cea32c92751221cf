"""Jobs that come slowly, from a generator: each is submitted, and its answer told, before the next one comes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from producer import AsyncClient, Client, Job
from tests.producer.conftest import MakeJob, PlayedWorker, wait_until
from vqa.settings import QueueSettings

#: submits the jobs by one of the clients' methods
Submit = Callable[[Iterator[Job]], object]


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


class Source:
    """Three jobs, which come together; then one more, once the test has released it."""

    def __init__(self, question: MakeJob) -> None:
        self.released = threading.Event()
        self.closed = threading.Event()
        self._question = question

    def jobs(self) -> Iterator[Job]:
        try:
            yield from (self._question(f"early {number}", lane="bulk") for number in range(3))
            assert self.released.wait(60)
            yield self._question("late", lane="bulk")
        finally:
            self.closed.set()


@pytest.fixture
def source(question: MakeJob) -> Source:
    return Source(question)


def test_the_first_answers_come_while_the_generator_waits(client: Client, echoing: None, source: Source) -> None:
    outcomes = client.ask_many(source.jobs())
    assert sorted(next(outcomes)[1].text for _ in range(3)) == ["early 0", "early 1", "early 2"]
    source.released.set()
    assert [outcome.text for _, outcome in outcomes] == ["late"]


def test_so_they_do_with_asyncio(queue_settings: QueueSettings, echoing: None, source: Source) -> None:
    async def main() -> list[str]:
        async with AsyncClient(queue_settings) as client, asyncio.timeout(60):
            texts = []
            async for _, outcome in client.ask_many(source.jobs()):
                texts.append(outcome.text)
                if len(texts) == 3:
                    source.released.set()
            return texts

    *early, last = asyncio.run(main())
    assert (sorted(early), last) == (["early 0", "early 1", "early 2"], "late")


def test_leaving_while_the_generator_waits_leaves_its_thread_to_end_with_the_next_job(
    client: Client, echoing: None, source: Source, redis: Redis
) -> None:
    outcomes = client.ask_many(source.jobs())
    next(outcomes)
    outcomes.close()
    source.released.set()
    assert source.closed.wait(60)
    # the job that came late was not sent
    wait_until(lambda: not sum(sum(states.values()) for states in client.counts().values()), "the others are answered")
    assert len(redis.keys("celery-task-meta-*")) == 3


async def with_asyncio(settings: QueueSettings, jobs: Iterator[Job]) -> object:
    async with AsyncClient(settings) as client, asyncio.timeout(60):
        return await client.submit_many(jobs)


@pytest.fixture(params=["submit_many", "asyncio", "batch"])
def submit(request: pytest.FixtureRequest, client: Client, queue_settings: QueueSettings) -> Submit:
    submits: dict[str, Submit] = {
        "submit_many": client.submit_many,
        "asyncio": lambda jobs: asyncio.run(with_asyncio(queue_settings, jobs)),
        "batch": client.batches.create,
    }
    return submits[request.param]


def test_jobs_are_on_the_queue_before_the_next_one_comes(submit: Submit, redis: Redis, source: Source) -> None:
    submission = threading.Thread(target=submit, args=(source.jobs(),))
    submission.start()
    wait_until(lambda: redis.llen("bulk") == 3, "three jobs are on the queue, though the fourth does not come", 60)
    source.released.set()
    submission.join(60)
    assert redis.llen("bulk") == 4


def test_a_batch_fails_and_leaves_no_row_if_its_client_is_closed_while_no_row_comes(
    queue_settings: QueueSettings, redis: Redis, source: Source
) -> None:
    errors: list[BaseException] = []
    client = Client(queue_settings)

    def create() -> None:
        try:
            client.batches.create(source.jobs())
        except RuntimeError as error:
            errors.append(error)

    creation = threading.Thread(target=create)
    creation.start()
    wait_until(lambda: redis.llen("bulk") == 3, "three rows are on the queue", 60)
    client.close()
    # the source is still silent
    creation.join(60)
    source.released.set()
    assert "closed" in str(errors)
    [batch] = [key for key in redis.keys("vqa:batch:batch_*") if redis.type(key) == b"hash"]
    assert redis.hget(batch, "status") == b"failed"
    assert redis.zcard("vqa:deadlines") == 0


def test_a_cancelled_batch_lets_the_program_end_while_no_row_comes(redis_url: str) -> None:
    program = (
        "import asyncio, threading\n"
        "from producer import AsyncClient, Job\n"
        "def rows():\n"
        "    yield Job(messages=({'role': 'user', 'content': '?'},), lane='bulk')\n"
        "    threading.Event().wait()\n"
        "async def main():\n"
        "    async with AsyncClient() as client:\n"
        "        creation = asyncio.ensure_future(client.batches.create(rows()))\n"
        "        while not (await client.counts())['bulk']['queued']:\n"
        "            await asyncio.sleep(0.05)\n"
        "        creation.cancel()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    subprocess.run(command, env={**os.environ, "VQA_REDIS_URL": redis_url}, check=True, timeout=60)


def test_a_kept_error_keeps_no_source_open(client: Client, queue_settings: QueueSettings, source: Source) -> None:
    async def cancelled() -> BaseException:
        async with AsyncClient(queue_settings) as asking:
            submission = asyncio.ensure_future(asking.submit_many(source.jobs()))
            while not sum(sum(states.values()) for states in (await asking.counts()).values()):
                await asyncio.sleep(0.05)
            submission.cancel()
            [error] = await asyncio.gather(submission, return_exceptions=True)
            assert isinstance(error, BaseException)
            return error

    kept = asyncio.run(cancelled())
    source.released.set()
    assert source.closed.wait(60)
    assert isinstance(kept, asyncio.CancelledError)


def test_an_error_of_the_generator_is_raised_and_what_came_long_before_it_is_on_the_queue(
    client: Client, redis: Redis, question: MakeJob
) -> None:
    class Broken(Exception):
        pass

    def jobs() -> Iterator[Job]:
        yield question(id="early", lane="bulk")
        wait_until(lambda: redis.llen("bulk") == 1, "the first job is on the queue", 60)
        yield question(id="in-the-failing-chunk", lane="bulk")
        raise Broken

    for ask in (client.submit_many, lambda jobs: list(client.ask_many(jobs))):
        redis.flushall()
        with pytest.raises(Broken):
            ask(jobs())
        assert redis.zcard("vqa:deadlines") == 1


def test_a_generator_is_not_read_while_enough_jobs_are_open(client: Client, redis: Redis, question: MakeJob) -> None:
    read: list[Job] = []

    def endless() -> Iterator[Job]:
        while True:
            read.append(question(lane="bulk"))
            yield read[-1]

    def ask() -> None:
        with pytest.raises(RuntimeError, match="the client is closed"):
            list(client.ask_many(endless(), in_flight=8))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: len(read) == 8, "as many jobs are read as may be open", 60)
    # the poll for answers, before which it would have asked for more
    wait_until(lambda: redis.info("commandstats").get("cmdstat_blmpop", {"calls": 0})["calls"] > 1, "it polls", 60)
    client.close()
    asking.join(60)
    assert len(read) == 8


_SCRIPT = """
import signal, sys
from producer import Client, Job

# a program that is started in the background may have it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
jobs = (Job(messages=[{"role": "user", "content": line.decode()}], lane="bulk") for line in sys.stdin.buffer)
with Client() as client:
    for id, answer in client.ask_many(jobs):
        print(answer.text, flush=True)
"""


def test_ctrl_c_ends_a_program_whose_generator_waits_for_standard_input(
    environment: dict[str, str], echoing: None
) -> None:
    command = [sys.executable, "-W", "error", "-c", _SCRIPT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as program:
        assert program.stdin
        assert program.stdout
        assert program.stderr
        program.stdin.write("one\n")
        program.stdin.flush()
        assert program.stdout.readline() == "one\n"
        # the pipe stays open
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == -signal.SIGINT
        assert "Fatal" not in program.stderr.read()
