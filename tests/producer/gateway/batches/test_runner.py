"""The work on batches: leases, backpressure, ends; with a real Redis and without workers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from redis import Redis

from producer.client.client import Client
from producer.client.job_queue import JobQueue
from producer.gateway.access.admission import Admission
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.batches.lease import LeaseLost, Leases
from producer.gateway.batches.output_files import FileKind, OutputReader
from producer.gateway.batches.record import BatchRecord, SavedBatch
from producer.gateway.batches.registry import BatchRegistry
from producer.gateway.batches.runner import Runner
from producer.gateway.batches.work import Tools
from producer.gateway.caller_images import CallerImages
from producer.gateway.files.files import Files
from producer.gateway.files.upload import Upload
from producer.gateway.tasks import end_tasks
from producer.ids import new_id
from tests.producer.gateway.batches.inputs import row, rows_file
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import Batches
from vqa.redis.connection import connect_async
from vqa.settings import QueueSettings

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[str]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def connection(queue_settings: QueueSettings) -> AsyncIterator[redis.asyncio.Redis]:
    async with connect_async(queue_settings) as connection:
        yield connection


class Bench:
    """One process's runner; `begin` makes a batch of rows, `over` waits for its end."""

    def __init__(self, connection: redis.asyncio.Redis, settings: QueueSettings) -> None:
        self.queue = JobQueue(settings)
        self.leases = Leases(connection)
        self.registry = BatchRegistry(connection, self.leases)
        self.files = Files(connection, FilesSettings())
        self.reader = OutputReader(connection, self.queue.backend)
        admission = Admission(Exchanges(settings))
        test_models = GatewaySettings(test_models=True)
        images = CallerImages(settings, test_models, self.queue.reader)
        tools = Tools(self.registry, self.files, self.queue, admission, test_models, images)
        self.runner = Runner(tools, self.leases)

    async def begin(self, rows: list[dict[str, Any]], window_s: int = 3600, **fields: Any) -> str:
        async def body() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
            yield b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            yield rows_file(rows) + b"\r\n--b--\r\n"

        upload = Upload("multipart/form-data; boundary=b", body(), 2**30)
        file = await self.files.receive(new_id("file", None), upload)
        id = new_id("batch", None)
        record = BatchRecord(
            id, "/v1/chat/completions", file.id, "a.jsonl", "24h", window_s, int(time.time()), 3600, **fields
        )
        await self.registry.add(record)
        self.runner.wake()
        return id

    def state(self, id: str) -> BatchState | None:
        return Batches(self.queue.redis).get(id)

    async def until(self, id: str, condition: Callable[[BatchState], bool], timeout_s: float = 20) -> BatchState:
        async with asyncio.timeout(timeout_s):
            while (state := self.state(id)) is None or not condition(state):
                await asyncio.sleep(0.01)
        return state

    async def over(self, id: str) -> BatchState:
        return await self.until(id, lambda state: state.is_over)

    async def lines(self, id: str, kind: FileKind) -> list[dict[str, Any]]:
        [saved] = await self.registry.get([id])
        state = self.state(id)
        assert isinstance(saved, SavedBatch)
        assert state is not None
        content = b"".join([lines async for lines in self.reader.content(saved, state, kind)])
        return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
async def bench(connection: redis.asyncio.Redis, queue_settings: QueueSettings) -> AsyncIterator[Bench]:
    bench = Bench(connection, queue_settings)
    running = asyncio.create_task(bench.runner.run())
    yield bench
    await end_tasks(running)
    bench.queue.close()


async def test_one_process_has_a_lease_until_it_stops_renewing(connection: redis.asyncio.Redis) -> None:
    leases = Leases(connection, lease_ms=200)
    async with connection.pipeline() as pipe:
        leases.queue_add(pipe, "b")
        await pipe.execute()
    first = await leases.claim()
    assert first is not None
    assert await leases.claim() is None
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        await first.keep()
        assert await leases.claim() is None
        await asyncio.sleep(0.02)
    async with asyncio.timeout(5):
        while (second := await leases.claim()) is None:
            await asyncio.sleep(0.01)
    for act in (first.release(0), first.end()):
        with pytest.raises(LeaseLost):
            await act
    await second.end()
    assert await leases.claim() is None


async def test_rows_without_a_worker_expire_with_their_batch(bench: Bench) -> None:
    id = await bench.begin([row(n, "q") for n in range(20)], window_s=1)
    state = await bench.over(id)

    assert (state.status, state.failed, dict(state.codes)) == ("expired", 20, {"batch_expired": 20})
    errors = await bench.lines(id, "errors")
    assert [line["custom_id"] for line in errors] == [f"row-{n}" for n in range(20)]
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, "batch_expired")}
    assert not await bench.lines(id, "output")


async def test_rows_that_never_fit_expire_with_their_batch(connection: redis.asyncio.Redis, redis_url: str) -> None:
    bench = Bench(connection, QueueSettings(redis_url=redis_url, queue_most=30))
    running = asyncio.create_task(bench.runner.run())
    id = await bench.begin([row(n, "q") for n in range(100)], window_s=1)
    state = await bench.over(id)
    await end_tasks(running)

    assert (state.status, state.failed, state.total) == ("expired", 100, 100)
    errors = await bench.lines(id, "errors")
    assert [line["custom_id"] for line in errors] == [f"row-{n}" for n in range(100)]
    bench.queue.close()


async def test_a_batch_waits_while_the_queue_is_full(connection: redis.asyncio.Redis, redis_url: str) -> None:
    settings = QueueSettings(redis_url=redis_url, queue_most=30)
    bench = Bench(connection, settings)
    running = asyncio.create_task(bench.runner.run())
    id = await bench.begin([row(n, "q") for n in range(100)])
    await bench.until(id, lambda state: state.open == 30)
    with Client(settings) as client:
        state = bench.state(id)
        while state is not None and not state.is_over:
            for job in list(Batches(client._queue.redis).open_ids(id)):
                client.cancel(job)
            await asyncio.sleep(0.05)
            state = bench.state(id)
    await end_tasks(running)

    assert state is not None
    assert (state.status, state.total, state.failed) == ("completed", 100, 100)
    assert len(await bench.lines(id, "errors")) == 100
    bench.queue.close()


async def test_a_page_that_is_submitted_twice_has_each_row_once(bench: Bench, redis: Redis) -> None:
    rows = [row(n, "q", model="vqa-echo") for n in range(700)] + [row("bad", "q", image="data:,")]
    id = await bench.begin(rows)
    await bench.over(id)
    before = await bench.lines(id, "output")
    # as after a process that died before it noted the progress
    redis.hset(f"vqa:gateway:batch:{id}", "progress", json.dumps({"total": 701, "model": "vqa-echo"}))
    redis.hset(f"vqa:batch:{id}", "status", "in_progress")
    redis.hdel(f"vqa:batch:{id}", "sealed")
    redis.zadd("vqa:gateway:open_batches", {id: 0})
    state = await bench.over(id)

    assert await bench.lines(id, "output") == before
    assert [line["custom_id"] for line in before] == [f"row-{n}" for n in range(700)]
    assert [line["custom_id"] for line in await bench.lines(id, "errors")] == ["row-bad"]
    assert (state.total, state.completed, state.failed) == (701, 700, 1)


async def test_an_input_that_is_gone_fails_the_batch(bench: Bench) -> None:
    async with connect_async(bench.queue.settings) as connection:
        record = BatchRecord(
            new_id("batch", None), "/v1/chat/completions", new_id("file", None), "", "24h", 60, int(time.time()), 60
        )
        await BatchRegistry(connection, bench.leases).add(record)
    state = await bench.over(record.id)

    assert state.status == "failed"
    [saved] = await bench.registry.get([record.id])
    assert saved is not None
    assert [error.code for error in saved.errors] == ["input_file_gone"]


async def test_jobs_carry_the_lane_the_tenant_and_the_trace_of_their_batch(bench: Bench, redis: Redis) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    id = await bench.begin([row(1, "q")], tenant="a", lane="interactive", trace=trace)
    await bench.until(id, lambda state: state.open == 1)
    [job] = Batches(redis).open_ids(id)
    header, _, payload = redis.get(f"vqa:job:{job}").partition(b"\n")

    assert json.loads(header) | {"lane": "interactive", "tenant": "a", "batch": id, "trace": trace} == json.loads(
        header
    )
    assert json.loads(payload)["batch"] == id
