"""The same client for asyncio: waiting is asynchronous, short exchanges run in threads, as kombu has no asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from producer.client.aio_reply_reader import AsyncMailbox
from producer.client.batches import Batch, Result, RowLike, Submission, newest
from producer.client.capacity import Holdup
from producer.client.dead_letters import DeadLetter, DeadLetters, Moment, Verdict
from producer.client.job_queue import Link
from producer.client.outage import Away
from producer.client.states import JobState, answer_of
from producer.client.submission import chunks
from producer.client.waiters import Wait, Window, arrived, remaining
from vqa.answer import Answer
from vqa.job import ImageSource, Job, Lane
from vqa.ledger.batches import BatchState
from vqa.ledger.records import State, WorkerInfo
from vqa.results import Outcome
from vqa.settings import QueueSettings

#: how often a wait for the whole batch looks
_LOOK_S = 1.0

Answers = Callable[[Iterable[str], float | None], AsyncIterator[tuple[str, Outcome]]]
#: runs a short exchange in a thread
Threaded = Callable[..., Awaitable[Any]]


class AsyncBatch:
    """`Batch` with `await`, method by method; see there."""

    def __init__(self, id: str, link: Link, answers: Answers, threaded: Threaded) -> None:
        self.id = id
        self._answers = answers
        self._threaded = threaded
        # its waits are not used: what is left is short exchanges
        self._batch = Batch(id, link, lambda ids, timeout_s: iter(()))

    async def state(self) -> BatchState:
        """See `Batch.state`."""
        state: BatchState = await self._threaded(self._batch.state)
        return state

    async def results(self, timeout_s: float | None = None) -> AsyncIterator[Result]:
        """See `Batch.results`."""
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        first = 0
        while True:
            rows, whole = await self._threaded(self._batch.page, first)
            if not rows and (whole or (end is not None and loop.time() > end)):
                return
            if not rows:
                await asyncio.sleep(_LOOK_S)
                continue
            first += len(rows)
            names = dict(rows)
            left = None if end is None else max(0.0, end - loop.time())
            async for id, outcome in self._answers(names, left):
                yield Result(names[id], id, outcome)

    async def records(self, timeout_s: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """See `Batch.records`."""
        async for result in self.results(timeout_s):
            yield result.record()

    async def wait(self, timeout_s: float | None = None) -> BatchState:
        """See `Batch.wait`."""
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        while not (state := await self.state()).is_over and (end is None or loop.time() < end):
            await asyncio.sleep(_LOOK_S)
        return state

    async def cancel(self) -> int:
        """See `Batch.cancel`."""
        ended: int = await self._threaded(self._batch.cancel)
        return ended


P = ParamSpec("P")
T = TypeVar("T")

#: short exchanges with Redis that run at once
_THREADS = 4


class AsyncClient:
    """`Client` for asyncio, method by method; see there. One belongs to one event loop, and its tasks share it.

    async with AsyncClient() as client:
        print((await client.ask("cat.jpg", "What is on the mat?")).text)

    Cancelling a task that waits does not cancel its job.
    """

    def __init__(self, settings: QueueSettings | None = None, **overrides: Any) -> None:
        given = settings.model_dump() if settings else {}
        self._link = Link(QueueSettings(**(given | overrides)))
        self._threads = ThreadPoolExecutor(_THREADS, "vqa-producer")
        self._mailbox = AsyncMailbox(self._link, self._threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        self._link.closing.set()
        try:
            await self._mailbox.close()
            await self._threaded(self._link.close, self._mailbox.outage.failing)
        finally:
            self._threads.shutdown(wait=False)

    @property
    def settings(self) -> QueueSettings:
        """What this client goes by."""
        return self._link.settings

    async def ask(self, image: ImageSource, question: str, **fields: Any) -> Answer:
        """See `Client.ask`."""
        job = await self._threaded(Job.about, image, question, **fields)
        return await self.answer(await self.submit(job))

    async def submit(self, job: Job) -> str:
        """See `Client.submit`."""
        await self._threaded(self._link.submit, job)
        return job.id

    async def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """See `Client.submit_many`. While it waits for room it holds no thread."""
        ids: list[str] = []
        each, holdup = chunks(jobs), Holdup()
        while rest := await self._threaded(_next, each):
            ids += [job.id for job in rest]
            while rest:
                offered = await self._threaded(self._link.reach, rest)
                if offered.rest:
                    await self._mailbox.pause(holdup.pause_s(offered, len(rest)))
                rest = offered.rest
        return ids

    async def ask_many(self, jobs: Iterable[Job], in_flight: int = 1000) -> AsyncGenerator[tuple[str, Outcome]]:
        """See `Client.ask_many`."""
        window, holdup = Window(jobs, in_flight), Holdup()
        with self._mailbox.waiting() as wait:
            while wait.pending or not window.done:
                while chunk := await self._threaded(window.due, len(wait.pending)):
                    await self._offer(chunk, window, holdup, wait)
                    if window.slow:
                        break
                if wait.pending or not window.done:
                    await self._mailbox.turn(wait, window.until())
                for pair in arrived(self._link.backend, wait):
                    yield pair
        for pair in remaining(self._link.backend, wait):
            yield pair

    async def _offer(self, chunk: Sequence[Job], window: Window, holdup: Holdup, wait: Wait) -> None:
        try:
            with self._mailbox.outage.exchange(short=False):
                offered = await self._threaded(self._link.offer, chunk)
        except Away as away:
            window.hold(chunk, away.pause_s)
            return
        if offered.rest:
            window.hold(offered.rest, holdup.pause_s(offered, len(chunk)))
        await self._mailbox.add(wait, offered.taken_of(chunk))

    async def submit_batch(
        self,
        rows: Iterable[RowLike],
        *,
        lane: Lane = "bulk",
        tenant: str | None = None,
        input: str = "",
        within_s: float | None = None,
        **defaults: Any,
    ) -> AsyncBatch:
        """See `Client.submit_batch`. It holds a thread until all rows are on the queue."""
        submission = Submission(lane, tenant, input, within_s)
        return self.batch(await self._threaded(submission.send, self._link, rows, defaults))

    def batch(self, id: str) -> AsyncBatch:
        """See `Client.batch`."""
        return AsyncBatch(id, self._link, self.answers, self._threaded)

    async def batches(self, limit: int = 100) -> list[BatchState]:
        """See `Client.batches`."""
        return await self._threaded(newest, self._link, limit)

    async def answer(self, id: str, timeout_s: float | None = None) -> Answer:
        """See `Client.answer`."""
        [(_, outcome)] = [pair async for pair in self.answers([id], timeout_s)]
        return answer_of(outcome)

    async def answers(self, ids: Iterable[str], timeout_s: float | None = None) -> AsyncGenerator[tuple[str, Outcome]]:
        """See `Client.answers`."""
        with self._mailbox.waiting(ids) as wait:
            for step in wait.steps(timeout_s):
                if isinstance(step, list):
                    await self._mailbox.look(step)
                else:
                    await self._mailbox.turn(wait, step)
                for pair in arrived(self._link.backend, wait):
                    yield pair
            if wait.pending:
                self._mailbox.outage.check()
        for pair in remaining(self._link.backend, wait):
            yield pair

    async def cancel(self, id: str) -> bool:
        """See `Client.cancel`."""
        return await self._threaded(self._link.cancel, id)

    async def states(self, ids: Iterable[str]) -> dict[str, JobState]:
        """See `Client.states`."""
        return await self._threaded(self._link.states, list(ids))

    async def counts(self) -> dict[Lane, dict[State, int]]:
        """See `Client.counts`."""
        return await self._threaded(self._link.counts)

    async def workers(self) -> list[WorkerInfo]:
        """See `Client.workers`."""
        return await self._threaded(self._link.workers)

    async def dead_letters(
        self,
        reason: str | None = None,
        since: Moment | None = None,
        before: Moment | None = None,
        limit: int | None = 100,
    ) -> list[DeadLetter]:
        """See `Client.dead_letters`."""
        return await self._dead(lambda dead: dead.newest(reason, since, before, limit))

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """See `Client.dead_letter`."""
        return await self._dead(lambda dead: dead.read([id]).get(id))

    async def count_dead(self) -> int:
        """See `Client.count_dead`."""
        return await self._dead(lambda dead: dead.count(self.settings.dead_ttl_s))

    async def retry_dead(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """See `Client.retry_dead`."""
        return await self._dead(lambda dead: dead.retry(ids))

    async def purge_dead(self, ids: Iterable[str]) -> int:
        """See `Client.purge_dead`."""
        return await self._dead(lambda dead: dead.purge(ids))

    async def image_sizes(self, references: Iterable[str]) -> dict[str, int | None]:
        """See `Client.image_sizes`."""
        return await self._threaded(self._link.image_sizes, list(references))

    async def _dead(self, act: Callable[[DeadLetters], T]) -> T:
        def run() -> T:
            with self._link.dead_letters() as dead:
                return act(dead)

        return await self._threaded(run)

    async def _threaded(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # threads of its own: those of the event loop may all be busy with something long
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))


def _next(each: Iterator[list[Job]]) -> Sequence[Job]:
    return next(each, ())
