"""A Redis that is away, silent or slow: waits ride it out, and every call ends with a named error in time."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Answer, AsyncClient, Client, Job, QueueUnavailable
from tests.producer.conftest import MakeJob, PlayedWorker, answer, wait_until
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

#: beyond the time that a call is given: a loaded machine, Python's start of threads
SLACK_S = 3.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be ill-treated."""
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        yield server


@pytest.fixture
def own_worker(server: RedisServer) -> Iterator[PlayedWorker]:
    settings = QueueSettings(redis_url=server.url)
    with connect(settings) as redis:
        yield PlayedWorker(redis, settings)


class Waiting(threading.Thread):
    """A thread that waits; what came of it is kept."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._wait = wait
        self.got: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.got = self._wait()
        except Exception as error:
            self.got = error

    def end(self, within_s: float) -> Any:
        self.join(timeout=within_s)
        assert not self.is_alive(), "it still waits"
        return self.got


def away(server: RedisServer, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()


def test_waits_ride_out_a_redis_that_is_away_for_two_seconds(
    server: RedisServer, own_worker: PlayedWorker, question: MakeJob
) -> None:
    with Client(redis_url=server.url) as client:
        first, *others = client.submit_many(question() for _ in range(4))
        one = Waiting(lambda: client.answer(first))
        many = Waiting(lambda: dict(client.answers(others)))
        away(server, 2)
        begun = Waiting(lambda: client.answer(first, timeout_s=20))
        for id in (first, *others):
            own_worker.close(id, answer(id, "after all"))
        assert one.end(20).text == begun.end(20).text == "after all"
        assert {outcome.text for outcome in many.end(20).values()} == {"after all"}


def test_a_wait_that_begins_while_redis_is_away_rides_it_out(
    server: RedisServer, own_worker: PlayedWorker, question: MakeJob
) -> None:
    with Client(redis_url=server.url) as client:
        id = client.submit(question())
        own_worker.close(id, answer(id, "ended before"))
        server.kill()
        waiting = Waiting(lambda: client.answer(id))
        time.sleep(2)
        assert waiting.is_alive()
        server.start()
        assert waiting.end(20).text == "ended before"


def test_many_jobs_in_flight_ride_it_out(server: RedisServer, own_worker: PlayedWorker) -> None:
    jobs = [Job(id=f"q{number}", messages=[{"role": "user", "content": "?"}], lane="bulk") for number in range(40)]

    def asked() -> Iterator[Job]:
        yield from jobs[:20]
        server.kill()
        # longer than one call is tried again
        threading.Timer(5, server.start).start()
        yield from jobs[20:]

    working = threading.Thread(target=own_worker.run, args=(lambda job, lease: answer(job.id, job.id),))
    with Client(redis_url=server.url) as client:
        wait = Waiting(lambda: dict(client.ask_many(asked(), in_flight=40)))
        wait_until(lambda: server.log.read_text().count("Ready to accept") == 2, "Redis is back")
        working.start()
        outcomes = wait.end(40)
        own_worker.stop()
        working.join(timeout=10)
    assert {id: outcome.text for id, outcome in outcomes.items()} == {job.id: job.id for job in jobs}


def test_asyncio_rides_it_out_too(server: RedisServer, own_worker: PlayedWorker, question: MakeJob) -> None:
    async def main() -> Answer:
        async with AsyncClient(redis_url=server.url) as client, asyncio.timeout(40):
            id = await client.submit(question())
            waiting = asyncio.create_task(client.answer(id))
            await asyncio.wait([waiting], timeout=0.2)
            await asyncio.to_thread(away, server, 2)
            own_worker.close(id, answer(id, "after all"))
            return await waiting

    assert asyncio.run(main()).text == "after all"


def test_a_redis_that_stays_away_ends_every_wait_in_time(server: RedisServer, question: MakeJob) -> None:
    with Client(redis_url=server.url, redis_timeout_s=2) as client:
        ids = client.submit_many(question() for _ in range(2))
        waits = [Waiting(lambda id=id: client.answer(id)) for id in ids]
        server.kill()
        begun = time.monotonic()
        for wait in waits:
            assert isinstance(wait.end(10), QueueUnavailable)
        assert 1.5 < time.monotonic() - begun < 2 + SLACK_S
        with pytest.raises(QueueUnavailable):
            client.submit(question())


def test_a_redis_that_stays_away_ends_the_waits_of_tasks_in_time(server: RedisServer, question: MakeJob) -> None:
    async def main() -> None:
        async with AsyncClient(redis_url=server.url, redis_timeout_s=2) as client, asyncio.timeout(30):
            ids = await client.submit_many([question(), question()])
            waits = [asyncio.create_task(client.answer(id)) for id in ids]
            await asyncio.wait(waits, timeout=0.2)
            server.kill()
            begun = time.monotonic()
            raised = await asyncio.gather(*waits, return_exceptions=True)
            assert [type(error) for error in raised] == [QueueUnavailable] * 2
            assert time.monotonic() - begun < 2 + SLACK_S

    asyncio.run(main())


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_the_callers_own_time_ends_its_wait_whatever_redis_does(
    server: RedisServer, question: MakeJob, how: str
) -> None:
    with Client(redis_url=server.url) as client:
        id = client.submit(question())
        waiting = Waiting(lambda: client.answer(id, timeout_s=5))
        # it waits: its first look went well
        wait_until(lambda: any(thread.name == "vqa-reply-reader" for thread in threading.enumerate()), "it reads")
        begun = time.monotonic()
        getattr(server, how)()
        assert isinstance(waiting.end(5 + SLACK_S), QueueUnavailable)
        assert time.monotonic() - begun > 4
        if how == "pause":
            server.resume()


def calls(client: Client, job: Job) -> dict[str, Callable[[], Any]]:
    return {
        "submit": lambda: client.submit(job),
        "submit_many": lambda: client.submit_many([job]),
        "ask_many": lambda: list(client.ask_many([job])),
        "answer": lambda: client.answer("q1"),
        "answers": lambda: list(client.answers(["q1"], timeout_s=0)),
        "cancel": lambda: client.cancel("q1"),
        "states": lambda: client.states(["q1"]),
        "counts": client.counts,
        "workers": client.workers,
        "dead_letters": client.dead_letters.list,
        "retry_dead": lambda: client.dead_letters.retry(["q1"]),
        "purge_dead": lambda: client.dead_letters.purge(["q1"]),
    }


def test_every_call_ends_in_time_when_redis_is_silent(server: RedisServer, question: MakeJob) -> None:
    job = question(id="q1")
    # one that was connected before, one that has to connect
    for used in (True, False):
        clients = {name: Client(redis_url=server.url, redis_timeout_s=1) for name in calls(Client(), job)}
        for client in clients.values():
            if used:
                client.submit(job)
        server.pause()
        begun = time.monotonic()
        waits = {name: Waiting(calls(client, job)[name]) for name, client in clients.items()}
        ended = {name: wait.end(20) for name, wait in waits.items()}
        assert {name: type(got) for name, got in ended.items()} == dict.fromkeys(clients, QueueUnavailable)
        assert time.monotonic() - begun < 1 + SLACK_S
        begun = time.monotonic()
        for client in clients.values():
            client.close()
        assert time.monotonic() - begun < SLACK_S
        server.resume()


def test_asyncio_calls_end_in_time_when_redis_is_silent(server: RedisServer, question: MakeJob) -> None:
    async def main() -> None:
        async with AsyncClient(redis_url=server.url, redis_timeout_s=1) as client, asyncio.timeout(30):
            await client.submit(question(id="q1"))
            server.pause()
            begun = time.monotonic()
            awaited = [client.submit(question()), client.answer("q1"), client.counts(), client.dead_letters.list()]
            raised = await asyncio.gather(*awaited, return_exceptions=True)
            assert [type(error) for error in raised] == [QueueUnavailable] * 4
            assert time.monotonic() - begun < 1 + SLACK_S

    asyncio.run(main())
    server.resume()


def test_a_slow_network_is_no_outage(server: RedisServer, own_worker: PlayedWorker, question: MakeJob) -> None:
    with Proxy(server.port) as proxy, Client(redis_url=f"redis://127.0.0.1:{proxy.port}/0") as client:
        id = client.submit(question())
        proxy.slow(0.5)
        waiting = Waiting(lambda: client.answer(id, timeout_s=30))
        own_worker.close(id, answer(id, "late"))
        assert waiting.end(20).text == "late"


def test_closing_ends_waits_with_a_plain_error(client: Client, question: MakeJob) -> None:
    ids = client.submit_many(question() for _ in range(2))
    waits = [
        Waiting(lambda: client.answer(ids[0])),
        Waiting(lambda: list(client.answers(ids, timeout_s=60))),
        Waiting(lambda: list(client.ask_many(question() for _ in range(3)))),
    ]
    wait_until(lambda: client.counts()["interactive"]["queued"] == 5, "all are submitted")
    client.close()
    for wait in waits:
        error = wait.end(10)
        assert isinstance(error, RuntimeError)
        assert str(error) == "the client is closed; make another"


def test_a_closed_client_submits_nothing(queue_settings: QueueSettings, redis: Redis, question: MakeJob) -> None:
    client = Client(queue_settings)
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.submit(question()),
        lambda: client.submit_many([question()]),
        lambda: list(client.ask_many([question()])),
        lambda: client.cancel("id"),
        client.counts,
        client.batches.list,
        client.dead_letters.list,
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="the client is closed; make another"):
            call()
    client.close()
    assert redis.keys("vqa:job:*") == []
