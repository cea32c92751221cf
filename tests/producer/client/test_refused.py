"""A Redis that refuses commands: what passes is waited for as docs/operations.md says, and every message says why."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from producer import AsyncClient, Cancelled, Client, Job, QueueUnavailable
from tests.producer.conftest import wait_until
from tests.redis_server import RedisServer, flushing_scripts
from vqa.redis.connection import RETRY_S, connect_async
from vqa.settings import QueueSettings

#: beyond the time that a call is given
SLACK_S = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose snapshots go into a folder that a test can take away."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "data").mkdir()
    with RedisServer(folder, f"dir {folder / 'data'}", f"pidfile {folder / 'pid'}", "save 3600 1") as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Redis]:
    with Redis(port=server.port) as redis:
        redis.flushall()
        yield redis
        redis.config_set("min-replicas-to-write", 0)
        redis.config_set("stop-writes-on-bgsave-error", "no")


def _job() -> Job:
    return Job(messages=[{"role": "user", "content": "secret question"}], lane="bulk")


def _no_replicas(redis: Redis, server: RedisServer) -> None:
    redis.config_set("min-replicas-to-write", 1)


def _no_disk(redis: Redis, server: RedisServer) -> None:
    redis.config_set("stop-writes-on-bgsave-error", "yes")
    for path in (server.folder / "data").glob("*"):
        path.unlink()
    if (server.folder / "data").exists():
        (server.folder / "data").rmdir()
    redis.set("written", 1)
    redis.bgsave()
    until = time.monotonic() + 20
    while redis.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("refuse", "said"),
    [(_no_replicas, "NOREPLICAS Not enough good replicas"), (_no_disk, "MISCONF Redis is configured to save")],
)
def test_a_submission_waits_for_what_passes_and_says_what_redis_said(
    server: RedisServer, admin: Redis, refuse: Callable[[Redis, RedisServer], None], said: str
) -> None:
    refuse(admin, server)
    with Client(redis_url=server.url) as client:
        for submit in (lambda: client.submit(_job()), lambda: client.submit_many([_job() for _ in range(3)])):
            begun = time.monotonic()
            with pytest.raises(QueueUnavailable, match=said) as raised:
                submit()
            assert RETRY_S - 0.5 < time.monotonic() - begun < RETRY_S + SLACK_S
            assert "question" not in str(raised.value)
        threading.Timer(1, admin.config_set, ["min-replicas-to-write", 0]).start()
        threading.Timer(1, admin.config_set, ["stop-writes-on-bgsave-error", "no"]).start()
        client.submit(_job())


def test_pipelines_of_asyncio_wait_too(server: RedisServer, admin: Redis) -> None:
    async def main() -> float:
        async with connect_async(QueueSettings(redis_url=server.url), retry_s=1) as redis:
            begun = time.monotonic()
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set("k", "v")
                with pytest.raises(ResponseError, match="NOREPLICAS"):
                    await pipe.execute()
            return time.monotonic() - begun

    admin.config_set("min-replicas-to-write", 1)
    assert 0.9 < asyncio.run(main()) < 1 + SLACK_S


def _demoted(admin: Redis) -> None:
    """A master that becomes a replica ends blocked pops with UNBLOCKED, and refuses further ones with READONLY."""
    admin.replicaof("127.0.0.1", 1)
    time.sleep(1)
    admin.replicaof("NO", "ONE")


def test_waits_ride_out_a_master_that_was_a_replica_for_a_second(server: RedisServer, admin: Redis) -> None:
    with Client(redis_url=server.url) as client:
        ids = client.submit_many([_job() for _ in range(2)])
        got: dict[str, object] = {}
        waiting = threading.Thread(target=lambda: got.update(client.answers(ids, timeout_s=30)))
        waiting.start()
        wait_until(lambda: _blocked(admin), "it waits")
        _demoted(admin)
        assert waiting.is_alive()
        for id in ids:
            client.cancel(id)
        waiting.join(20)
        assert {type(outcome) for outcome in got.values()} == {Cancelled}


def test_waits_of_asyncio_ride_it_out_too(server: RedisServer, admin: Redis) -> None:
    async def main() -> None:
        async with AsyncClient(redis_url=server.url) as client:
            id = await client.submit(_job())
            waiting = asyncio.create_task(client.answer(id, timeout_s=30))
            while not _blocked(admin):
                await asyncio.sleep(0.05)
            await asyncio.to_thread(_demoted, admin)
            assert not waiting.done()
            await client.cancel(id)
            with pytest.raises(Cancelled):
                await waiting

    asyncio.run(main())


def _blocked(admin: Redis) -> bool:
    return bool(admin.info("clients")["blocked_clients"])


def test_a_script_of_somebody_else_that_runs_too_long_is_waited_for(server: RedisServer, admin: Redis) -> None:
    admin.config_set("busy-reply-threshold", 10)
    with Client(redis_url=server.url) as client, Redis(port=server.port, socket_timeout=30) as other:
        client.counts()
        until = "local t = redis.call('TIME')[1] + 2; repeat local now = redis.call('TIME')[1] + 0 until now >= t"
        looping = threading.Thread(target=lambda: other.eval(until, 0))
        looping.start()
        wait_until(lambda: _busy(admin), "the script runs")
        client.submit(_job())
        looping.join()
        endless = threading.Thread(target=lambda: _killed(other))
        endless.start()
        wait_until(lambda: _busy(admin), "the endless script runs")
        with pytest.raises(QueueUnavailable, match=r"busy with a script .* SCRIPT KILL"):
            client.submit(_job())
        admin.script_kill()
        endless.join()


def _busy(admin: Redis) -> bool:
    """Whether a script has run for longer than `busy-reply-threshold`."""
    try:
        admin.ping()
    except ResponseError as error:
        return "BUSY" in str(error)
    return False


def _killed(redis: Redis) -> None:
    with pytest.raises(ResponseError, match="killed"):
        redis.eval("while true do end", 0)


def test_a_missing_right_is_named(server: RedisServer, admin: Redis) -> None:
    rights = ["+@connection", "+info", "+zcard"]
    admin.acl_setuser("poor", enabled=True, passwords="+p", keys=["vqa:*"], commands=rights)
    with (
        Client(redis_url=f"redis://poor:p@127.0.0.1:{server.port}/0") as client,
        pytest.raises(QueueUnavailable, match=r"right \+evalsha"),
    ):
        client.submit(_job())


def _every_call(client: Client) -> None:
    ids = [client.submit(_job()) for _ in range(30)] + client.submit_many([_job() for _ in range(300)])
    batch = client.batches.create([_job() for _ in range(100)])
    assert sum(client.counts()["bulk"].values()) == 430
    assert {state.state for state in client.states(ids).values()} <= {"waiting", "queued"}
    assert all(client.cancel(id) for id in ids)
    assert {type(outcome) for _, outcome in client.answers(ids)} == {Cancelled}
    assert batch.cancel() == 100
    assert batch.state().is_over
    assert client.dead_letters.retry(ids) == dict.fromkeys(ids, "unknown")


async def _every_call_async(client: AsyncClient) -> None:
    ids = [await client.submit(_job()) for _ in range(30)] + await client.submit_many([_job() for _ in range(300)])
    assert sum((await client.counts())["bulk"].values()) == 330
    assert all([await client.cancel(id) for id in ids])
    assert [type(outcome) async for _, outcome in client.answers(ids)] == [Cancelled] * 330


def test_flushed_scripts_are_no_error_of_any_call(server: RedisServer, admin: Redis) -> None:
    with flushing_scripts(server.url), Client(redis_url=server.url) as client:
        _every_call(client)


def test_flushed_scripts_are_no_error_of_any_call_of_asyncio(server: RedisServer, admin: Redis) -> None:
    async def main() -> None:
        async with AsyncClient(redis_url=server.url) as client:
            await _every_call_async(client)

    with flushing_scripts(server.url):
        asyncio.run(main())
