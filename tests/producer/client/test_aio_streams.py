"""Answers read while they are generated, with the asyncio client; what both clients share is tested with the other."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import anyio
import pytest
from redis import Redis

from producer import AsyncAnswerStream, AsyncClient, Client, Job, PromptTooLong, TextPiece
from tests.producer.client.streaming import write
from tests.producer.client.test_aio import run
from tests.producer.client.test_streams import TRACE, state
from tests.producer.conftest import MakeJob, PlayedWorker, answer, wait_until
from vqa.ledger.commands import entry_key
from vqa.settings import QueueSettings


async def in_thread(function: Callable[..., object], *arguments: object) -> None:
    await asyncio.to_thread(function, *arguments)


async def begin(worker: PlayedWorker, redis: Redis, id: str) -> None:
    """Play a worker that has begun to answer."""

    def work() -> None:
        wait_until(lambda: redis.exists(entry_key(id)), "the job is submitted")
        write(redis, worker.take(id), 0, "a ")

    await asyncio.to_thread(work)


def test_text_is_read_as_it_is_written_and_then_the_answer_is_there(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        async with client.stream(question(), trace=TRACE) as stream:
            assert worker.take(stream.id).header.trace == TRACE
            await begin(worker, redis, stream.id)
            assert await anext(stream) == TextPiece("a ", 1)
            assert stream.answer is None
            await in_thread(worker.close, stream.id, answer(stream.id, "a cat"))
            assert [piece async for piece in stream] == [TextPiece("cat", 1)]
            assert [piece async for piece in stream] == []
        assert stream.answer == await client.answer(stream.id)

    run(queue_settings, body)


def test_the_job_is_submitted_when_the_stream_is_first_awaited(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        stream = client.stream(question())
        await asyncio.sleep(0.05)
        assert not redis.exists(entry_key(stream.id))
        # nothing to cancel
        await client.stream(question()).aclose()
        first = asyncio.ensure_future(anext(stream))
        await begin(worker, redis, stream.id)
        assert (await first).text == "a "
        await stream.aclose()

    run(queue_settings, body)


def test_another_task_may_close_a_stream_that_is_read(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        stream = client.stream(question())
        await begin_reading(stream)
        reading = asyncio.create_task(rest(stream))
        await asyncio.sleep(0.1)
        await stream.aclose()
        async with asyncio.timeout(10):
            assert await reading == []
        assert stream.answer is None

    async def begin_reading(stream: AsyncAnswerStream) -> None:
        first = asyncio.ensure_future(anext(stream))
        await begin(worker, redis, stream.id)
        assert (await first).text == "a "

    async def rest(stream: AsyncAnswerStream) -> list[TextPiece]:
        return [piece async for piece in stream]

    run(queue_settings, body)


def test_the_error_of_the_job_is_raised_and_ends_the_stream(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    async def body(client: AsyncClient) -> None:
        async with client.stream(question()) as stream:
            await begin(worker, redis, stream.id)
            assert (await anext(stream)).text == "a "
            await in_thread(worker.close, stream.id, PromptTooLong("too many tokens"))
            with pytest.raises(PromptTooLong, match="too many tokens"):
                await anext(stream)
            assert [piece async for piece in stream] == []

    run(queue_settings, body)


async def _break(stream: AsyncAnswerStream) -> None:
    async for _ in stream:
        break


async def _aclose(stream: AsyncAnswerStream) -> None:
    await anext(stream)
    await stream.aclose()


async def _aclosing(stream: AsyncAnswerStream) -> None:
    async with aclosing(stream):
        await anext(stream)


async def _raise(stream: AsyncAnswerStream) -> None:
    with pytest.raises(LookupError):
        async with stream:
            raise LookupError(await anext(stream))


async def _cancelled_task(stream: AsyncAnswerStream) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            begun.set()

    task = asyncio.ensure_future(read())
    await begun.wait()
    # it waits for the next piece
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _cancelled_scope(stream: AsyncAnswerStream) -> None:
    """As Starlette does with a response whose client has gone: every `await` in the scope is cancelled."""
    with anyio.CancelScope() as scope:
        async with stream:
            async for _ in stream:
                scope.deadline = anyio.current_time() + 0.05


async def _in_a_circle(stream: AsyncAnswerStream) -> None:
    circle: list[object] = [stream]
    circle.append(circle)
    await anext(stream)


@pytest.mark.parametrize("leave", [_break, _aclose, _aclosing, _raise, _cancelled_task, _cancelled_scope, _in_a_circle])
def test_leaving_early_cancels_the_job(
    queue_settings: QueueSettings,
    client: Client,
    worker: PlayedWorker,
    redis: Redis,
    question: MakeJob,
    leave: Callable[[AsyncAnswerStream], Awaitable[None]],
) -> None:
    job = question()

    async def body(own: AsyncClient) -> None:
        work = asyncio.ensure_future(begin(worker, redis, job.id))
        await leave(own.stream(job))
        gc.collect()
        await work
        await in_thread(wait_until, lambda: state(client, job.id) == "cancelled", "it is cancelled")
        await asyncio.sleep(0)
        assert not own._replies._waiters

    run(queue_settings, body)


@pytest.mark.parametrize("turns", range(20))
def test_a_submission_that_is_cancelled_leaves_no_open_job(
    queue_settings: QueueSettings, client: Client, question: MakeJob, turns: int
) -> None:
    job = question()

    async def body(own: AsyncClient) -> None:
        task = asyncio.ensure_future(anext(own.stream(job)))
        for _ in range(turns):
            await asyncio.sleep(0.0005 if turns > 3 else 0)
        task.cancel()
        # redis-py loses some cancellations
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()

    # closing the client waits for what is under way
    run(queue_settings, body)
    assert state(client, job.id) in ("cancelled", "unknown")


def test_a_client_that_is_closed_cancels_first_what_was_left(
    queue_settings: QueueSettings, client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    job = question()

    async def body(own: AsyncClient) -> None:
        work = asyncio.ensure_future(begin(worker, redis, job.id))
        async for _ in own.stream(job):
            break
        await work

    run(queue_settings, body)
    assert state(client, job.id) == "cancelled"


# the connections of a loop that has ended cannot be closed
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning")
def test_a_loop_that_ends_with_a_stream_half_read_cancels_its_job(
    queue_settings: QueueSettings, client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    job = question()
    streams: list[AsyncAnswerStream] = []

    async def main() -> None:
        # nobody closes it
        own = AsyncClient(queue_settings)
        streams.append(own.stream(job))
        work = asyncio.ensure_future(begin(worker, redis, job.id))
        await anext(streams[0])
        await work

    asyncio.run(main())
    streams.clear()
    gc.collect()
    wait_until(lambda: state(client, job.id) == "cancelled", "it is cancelled")


# it looks for an outcome while its connection is made, and waits later
@pytest.mark.parametrize("late_s", [0, 0.002, 0.004, 0.006, 0.008, 0.2])
def test_a_wait_ends_when_the_client_is_closed(
    queue_settings: QueueSettings, client: Client, redis: Redis, question: MakeJob, late_s: float
) -> None:
    job = question()

    async def body(own: AsyncClient) -> None:
        waiting = asyncio.ensure_future(anext(own.stream(job)))
        while not redis.exists(entry_key(job.id)):
            await asyncio.sleep(0.001)
        await asyncio.sleep(late_s)
        await own.close()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting

    run(queue_settings, body)
    # as with other waits, the job goes on
    assert state(client, job.id) == "queued"


def test_hundreds_of_streams_share_one_reader_and_a_few_connections(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    jobs = [question() for _ in range(400)]

    async def main() -> None:
        async with AsyncClient(queue_settings) as client, asyncio.timeout(60):
            begun: list[str] = []
            reading = [asyncio.ensure_future(_read(client.stream(job), begun)) for job in jobs]
            await in_thread(_answer_all, worker, redis, jobs, begun)
            assert await asyncio.gather(*reading) == [(2, f"{number} and a cat") for number in range(len(jobs))]
            assert len(redis.client_list()) < 20

    # not in debug mode, where each wake-up takes a millisecond
    asyncio.run(main())


def _answer_all(worker: PlayedWorker, redis: Redis, jobs: list[Job], begun: list[str]) -> None:
    wait_until(lambda: all(redis.exists(entry_key(job.id)) for job in jobs), "all are open")
    for number, job in enumerate(jobs):
        write(redis, worker.take(job.id), 0, str(number))
    wait_until(lambda: len(begun) == len(jobs), "the first piece of all was read")
    for number, job in enumerate(jobs):
        worker.close(job.id, answer(job.id, f"{number} and a cat"))


async def _read(stream: AsyncIterator[TextPiece], begun: list[str]) -> tuple[int, str]:
    """Return how many pieces came, and their text; note in `begun` when the first one has come."""
    pieces = [(await anext(stream)).text]
    begun += pieces
    pieces += [piece.text async for piece in stream]
    return len(pieces), "".join(pieces)
