"""What a caller sees of the asyncio client; what both share is tested with the synchronous one."""

import asyncio
import gc
import inspect
import io
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer import (
    AnswerTimeout,
    AsyncClient,
    Client,
    DeadlineExceeded,
    Job,
    PromptTooLong,
    UnknownJob,
)
from producer.client.aio_resources import AsyncBatchesResource, AsyncDeadLettersResource, AsyncImagesResource
from producer.client.batches import new_id
from producer.client.resources import BatchesResource, DeadLettersResource, ImagesResource
from tests.producer.conftest import MakeJob, PlayedWorker, answer
from tests.redis_server import RedisServer
from vqa.ledger.batches import Batches
from vqa.settings import QueueSettings


def run(settings: QueueSettings, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """The body with a client, in an event loop of its own."""

    async def main() -> None:
        async with AsyncClient(settings) as client, asyncio.timeout(60):
            await body(client)

    asyncio.run(main(), debug=True)


def test_it_has_every_method_of_the_synchronous_client() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(of).parameters) for name, of in methods if not name.startswith("_")}

    assert surface(AsyncClient) == surface(Client)
    assert surface(AsyncBatchesResource) == surface(BatchesResource)
    assert surface(AsyncDeadLettersResource) == surface(DeadLettersResource)
    assert surface(AsyncImagesResource) == surface(ImagesResource)


def test_many_questions_at_once_get_their_own_answers(queue_settings: QueueSettings, echoing: None, png: bytes) -> None:
    async def body(client: AsyncClient) -> None:
        answers = await asyncio.gather(*(client.ask(png, f"Question {number}?") for number in range(100)))
        assert [answer.text for answer in answers] == [f"Question {number}?" for number in range(100)]

    run(queue_settings, body)


def test_answers_come_as_they_finish(queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob) -> None:
    async def body(client: AsyncClient) -> None:
        first, second = await client.submit_many([question(), question()])
        outcomes = client.answers([first, second])
        worker.close(second, answer(second, "second"))
        assert await anext(outcomes) == (second, answer(second, "second"))
        worker.close(first, PromptTooLong("too long"))
        assert [(id, type(outcome)) async for id, outcome in outcomes] == [(first, PromptTooLong)]

    run(queue_settings, body)


def test_many_jobs_pass_through_a_window(queue_settings: QueueSettings, echoing: None, question: MakeJob) -> None:
    async def body(client: AsyncClient) -> None:
        jobs = [question(f"{number}", lane="bulk") for number in range(100)]
        outcomes = {id async for id, _ in client.ask_many(iter(jobs), in_flight=8)}
        assert outcomes == {job.id for job in jobs}

    run(queue_settings, body)


def test_errors_are_raised_as_themselves(
    queue_settings: QueueSettings, worker: PlayedWorker, png: bytes, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(UnknownJob):
            await client.answer("nobody's")
        with pytest.raises(DeadlineExceeded):
            await client.ask(png, "Is anybody there?", timeout_s=0.2)
        id = await client.submit(question())
        with pytest.raises(AnswerTimeout):
            await client.answer(id, timeout_s=0.1)
        worker.close(id, PromptTooLong("too long"))
        with pytest.raises(PromptTooLong):
            await client.answer(id)

    run(queue_settings, body)


def test_what_another_client_submitted_is_found_by_looking(
    queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob
) -> None:
    with Client(queue_settings) as other:
        id = other.submit(question())
    closing = threading.Timer(0.2, worker.close, (id, answer(id, "found")))

    async def body(client: AsyncClient) -> None:
        closing.start()
        assert (await client.answer(id)).text == "found"

    run(queue_settings, body)
    closing.join()


def test_jobs_can_be_cancelled_and_looked_at(
    queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        id = await client.submit(question())
        worker.ledger.renew("card0@here", [], 9, {})
        assert (await client.counts())["interactive"]["queued"] == 1
        assert [info.name for info in await client.workers()] == ["card0@here"]
        assert await client.cancel(id)
        assert not await client.cancel(id)
        assert (await client.states([id]))[id].error == "Cancelled: the job was cancelled by a producer"

    run(queue_settings, body)


def test_a_cancelled_wait_leaves_the_others_waiting(
    queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    async def body(client: AsyncClient) -> None:
        first, second = await client.submit_many([question(), question()])
        leaving, staying = (asyncio.create_task(client.answer(id)) for id in (first, second))
        await asyncio.wait([leaving], timeout=0.1)
        leaving.cancel()
        worker.close(second, answer(second, "second"))
        assert (await staying).text == "second"
        assert (await client.states([first]))[first].state == "queued"

    run(queue_settings, body)


def test_closing_ends_the_waits_of_other_tasks(queue_settings: QueueSettings, question: MakeJob) -> None:
    async def main() -> None:
        async with AsyncClient(queue_settings) as client:
            waiting = asyncio.create_task(client.answer(await client.submit(question())))
            await asyncio.wait([waiting], timeout=0.1)
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_a_batchs_results_wait_for_rows_that_are_still_to_come(
    queue_settings: QueueSettings, redis: Redis, worker: PlayedWorker, question: MakeJob
) -> None:
    id, batches = new_id(), Batches(redis)
    batches.create(id, "bulk", detached=True)

    async def upload(client: AsyncClient) -> None:
        job = question(batch=id)
        await client.submit(job)
        worker.close(job.id, answer(job.id, "late"))
        batches.add_rows(id, 0, [(job.id, "row")])
        batches.seal(id, 1)

    async def body(client: AsyncClient) -> None:
        records = client.batches.retrieve(id).records()
        first = asyncio.ensure_future(anext(records))
        # it has looked, and found no row
        done, _ = await asyncio.wait([first], timeout=0.3)
        assert not done
        await upload(client)
        assert (await first)["text"] == "late"
        assert [each async for each in records] == []

    run(queue_settings, body)


def test_no_short_call_waits_behind_long_ones(
    queue_settings: QueueSettings, echoing: None, question: MakeJob, png: bytes
) -> None:
    more = threading.Event()

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            more.wait(30)
            return super().read(size)

    def slow(name: str) -> Iterator[Job]:
        yield question(id=f"{name}-first")
        more.wait(30)

    async def consumed(outcomes: AsyncIterator[object]) -> int:
        return len([each async for each in outcomes])

    async def body(client: AsyncClient) -> None:
        long: list[Awaitable[object]] = [client.batches.create(slow(f"batch{number}")) for number in range(5)]
        long += [client.submit_many(slow(f"many{number}")) for number in range(5)]
        long += [consumed(client.ask_many(slow(f"ask{number}"))) for number in range(5)]
        long += [client.ask(SlowFile(png), f"Question {number}?") for number in range(5)]
        tasks = [asyncio.ensure_future(each) for each in long]
        try:
            await asyncio.wait(tasks, timeout=0.3)
            async with asyncio.timeout(15):
                assert (await client.answer(await client.submit(question("meanwhile")))).text == "meanwhile"
                assert not await client.cancel("nobody's")
                assert set(await client.counts()) == {"interactive", "bulk"}
                assert await client.batches.list()
            assert not any(task.done() for task in tasks)
        finally:
            more.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)

    run(queue_settings, body)


def test_closing_takes_no_time_while_redis_is_silent(tmp_path: Path, question: MakeJob) -> None:
    async def main(server: RedisServer) -> None:
        client = AsyncClient(redis_url=server.url, redis_timeout_s=6)
        id = await client.submit(question())
        tasks = [asyncio.create_task(client.answer(id))]
        await asyncio.wait(tasks, timeout=0.2)
        server.pause()
        try:
            tasks += [asyncio.create_task(client.counts()) for _ in range(6)]
            tasks.append(asyncio.create_task(client.submit_many([question()])))
            await asyncio.wait(tasks, timeout=0.5)
            begun = time.monotonic()
            await client.close()
            assert time.monotonic() - begun < 2
            with pytest.raises(RuntimeError, match="closed"):
                await client.counts()
        finally:
            server.resume()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, dict | list | RuntimeError)

    with RedisServer(tmp_path / "redis") as server:
        asyncio.run(main(server))


# the first loop's connections are left to the collector
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_client_goes_on_in_a_second_event_loop_once_the_first_is_closed(
    queue_settings: QueueSettings, echoing: None, png: bytes
) -> None:
    client = AsyncClient(queue_settings)
    for number in range(3):
        assert asyncio.run(client.ask(png, f"Loop {number}?")).text == f"Loop {number}?"
    asyncio.run(client.close())
    del client
    gc.collect()


def test_waiting_in_two_event_loops_at_once_is_refused_with_the_call_to_make(
    queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        id = await client.submit(question())
        waiting = asyncio.create_task(client.answer(id))
        await asyncio.wait([waiting], timeout=0.1)
        with pytest.raises(RuntimeError, match="async with AsyncClient"):
            await asyncio.to_thread(lambda: asyncio.run(client.answer(id)))
        worker.close(id, answer(id, "heard"))
        assert (await waiting).text == "heard"

    run(queue_settings, body)
