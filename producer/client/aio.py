"""The asyncio client. Waits are asynchronous; exchanges run in threads, because kombu has no asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from producer.client.aio_reply_reader import AsyncReplyReader
from producer.client.aio_resources import AsyncBatchesResource, AsyncDeadLettersResource, AsyncImagesResource
from producer.client.aio_streams import AsyncAnswerStream
from producer.client.capacity import Backoff
from producer.client.job_queue import JobQueue
from producer.client.models import AsyncModelsResource
from producer.client.outage import Unreachable
from producer.client.resources import DeprecatedMethods
from producer.client.sending import current_trace
from producer.client.states import JobState, answer_of
from producer.client.submission import PreparedJob, arriving_chunks
from producer.client.threads import InThread, Threads
from producer.client.timeline import Timeline
from producer.client.url_images import UrlImages, urls_of
from producer.client.waiters import Waiter, arrived, remaining
from producer.client.window import Window
from producer.client.withdrawals import Withdrawals
from producer.images.shrink import Shrink
from vqa.answer import Answer
from vqa.fetch.settings import FetchSettings
from vqa.jobs.fields import AboutFields, ImageSource
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.records import State, WorkerInfo
from vqa.results import Outcome
from vqa.settings import QueueSettings


class AsyncClient(DeprecatedMethods):
    """`Client` for asyncio; its methods are documented there. All tasks of one event loop may share a client.

        async with AsyncClient() as client:
            print((await client.ask("cat.jpg", "What is on the mat?")).text)

    Cancelling a waiting task does not cancel its job. A second event loop may use a client once the first is closed;
    waiting in two at once raises RuntimeError.
    """

    def __init__(
        self,
        settings: QueueSettings | None = None,
        *,
        fetch_settings: FetchSettings | None = None,
        shrink: Shrink | bool = False,
        **overrides: Any,
    ) -> None:
        given = settings.model_dump() if settings else {}
        self._queue = JobQueue(QueueSettings(**(given | overrides)), fetch_settings, Shrink.parse(shrink))
        self._threads = Threads()
        self._replies = AsyncReplyReader(self._queue, self._threads)
        self._withdrawals = Withdrawals(self._queue)
        self.batches = AsyncBatchesResource(self._queue, self.answers, self._threads)
        self.dead_letters = AsyncDeadLettersResource(self._queue, self._threads)
        self.images = AsyncImagesResource(self._queue, self._threads)
        self.models = AsyncModelsResource(self._queue, self._threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._queue.closing.is_set():
            return
        await self._threads.long(self._withdrawals.close)
        self._queue.closing.set()
        try:
            await self._replies.close()
            await self._threads.long(self._queue.close)
        finally:
            self._threads.close()

    @property
    def settings(self) -> QueueSettings:
        return self._queue.settings

    async def ask(self, image: ImageSource, question: str, **fields: Unpack[AboutFields]) -> Answer:
        await self._threads.image(self._queue.reader.check_source, image)
        job = await self._threads.image(Job.about, image, question, **fields)
        return await self.answer(await self.submit(job))

    async def submit(self, job: Job, *, trace: str | None = None) -> str:
        in_thread = self._threads.fetch if self._is_slow(job) else self._threads.short
        await in_thread(self._queue.submit, job, trace=current_trace() if trace is None else trace)
        return job.id

    def _is_slow(self, job: Job) -> bool:
        """Whether images are fetched, or decoded, before the job is submitted."""
        return bool(self._queue.reader.shrinker or urls_of([PreparedJob(job)]))

    def stream(self, job: Job, *, trace: str | None = None) -> AsyncAnswerStream:
        """Return the job's answer as an asynchronous iterator of pieces of text, read while it is generated.

            async with client.stream(Job.about("cat.jpg", "What is on the mat?")) as stream:
                async for piece in stream:
                    print(piece.text, end="", flush=True)

        The job is submitted when the stream is entered or first awaited. Leaving it early cancels the job.
        """
        start = self._threads.start_fetch if self._is_slow(job) else self._threads.start_short
        submit = partial(start, self._queue.submit, job, stream=True, trace=current_trace() if trace is None else trace)
        return AsyncAnswerStream(self._queue, self._replies, self._withdrawals, job.id, submit)

    async def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Do as `Client.submit_many`; a wait for capacity occupies no thread."""
        ids: list[str] = []
        all_chunks, backoff = UrlImages(self._queue.reader).ready(arriving_chunks(jobs)), Backoff()
        with self._threads.own(all_chunks.close) as in_thread:
            while (rest := await in_thread(_next, all_chunks)) is not None:
                ids += [job.id for job in rest]
                while rest:
                    offered = await in_thread(self._queue.submit_chunk, rest)
                    if offered.rest:
                        await self._replies.pause(backoff.pause_s(offered, len(rest)))
                    rest = offered.rest
        return ids

    async def ask_many(self, jobs: Iterable[Job], in_flight: int = 1000) -> AsyncGenerator[tuple[str, Outcome]]:
        images = UrlImages(self._queue.reader, collects=True)
        window, backoff = Window(jobs, in_flight, images, reads_in_thread=True), Backoff()
        with self._replies.waiting() as waiter, self._threads.own(window.close) as in_thread:
            while waiter.pending or not window.done:
                while chunk := await in_thread(window.due, len(waiter.pending)):
                    await self._offer(in_thread, chunk, window, backoff, waiter)
                    if window.slow:
                        break
                for failure in images.take_failures():
                    yield failure
                if waiter.pending or not window.done:
                    await self._replies.wait_until(waiter, window.until())
                for pair in arrived(self._queue.backend, waiter):
                    yield pair
        for pair in remaining(self._queue.backend, waiter):
            yield pair

    async def _offer(
        self, in_thread: InThread, chunk: Sequence[PreparedJob], window: Window, backoff: Backoff, waiter: Waiter
    ) -> None:
        try:
            with self._replies.outage.exchange(short=False):
                offered = await in_thread(self._queue.offer, chunk)
        except Unreachable as unreachable:
            window.hold(chunk, unreachable.pause_s)
            return
        if offered.rest:
            window.hold(offered.rest, backoff.pause_s(offered, len(chunk)))
        await self._replies.add(waiter, offered.accepted_ids(chunk))

    async def answer(self, id: str, timeout_s: float | None = None) -> Answer:
        [(_, outcome)] = [pair async for pair in self.answers([id], timeout_s)]
        return answer_of(outcome)

    async def answers(self, ids: Iterable[str], timeout_s: float | None = None) -> AsyncGenerator[tuple[str, Outcome]]:
        with self._replies.waiting(ids) as waiter:
            for step in waiter.steps(timeout_s):
                if isinstance(step, list):
                    await self._replies.look(step)
                else:
                    await self._replies.wait_until(waiter, step)
                for pair in arrived(self._queue.backend, waiter):
                    yield pair
            if waiter.pending:
                self._replies.outage.check()
        for pair in remaining(self._queue.backend, waiter):
            yield pair

    async def cancel(self, id: str) -> bool:
        return await self._threads.short(self._queue.cancel, id)

    async def states(self, ids: Iterable[str]) -> dict[str, JobState]:
        return await self._threads.short(self._queue.states, list(ids))

    async def timeline(self, id: str) -> Timeline:
        return await self._threads.short(self._queue.timeline, id)

    async def counts(self) -> dict[Lane, dict[State, int]]:
        return await self._threads.short(self._queue.counts)

    async def inbox_length(self) -> int:
        return await self._threads.short(self._queue.inbox_length)

    async def workers(self) -> list[WorkerInfo]:
        return await self._threads.short(self._queue.workers)

    async def image_sizes(self, references: Iterable[str]) -> dict[str, int | None]:
        return await self._threads.short(self._queue.image_sizes, list(references))


def _next(all_chunks: Iterator[list[PreparedJob]]) -> Sequence[PreparedJob] | None:
    return next(all_chunks, None)
