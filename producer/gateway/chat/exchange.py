"""The way of one chat request: admitted, submitted, answered, settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from producer.client.aio_streams import AsyncAnswerStream
from producer.client.job_queue import JobQueue
from producer.client.streams import TextPiece
from producer.client.submission import PreparedJob
from producer.client.withdrawals import Withdrawals
from producer.gateway.access.caller import Caller
from producer.gateway.chat.idempotency import is_repeated
from producer.gateway.chat.job_builder import ChatJob
from producer.gateway.chat.test_models import answer_at_once, is_test_model
from producer.gateway.context import Context
from vqa.answer import Answer
from vqa.errors import QueueUnavailable, VQAError
from vqa.job import Job

#: seconds after its deadline by which a job has been closed: by workers, the janitor, or the client that waits
_GRACE_S = 5.0

#: tokens of an image and of a chat template, for an estimate before the job runs; what was not used is refunded
_IMAGE_TOKENS, _TEMPLATE_TOKENS = 1024, 32
_CHARACTERS_PER_TOKEN = 3

#: the field of a request
_WEBHOOK = "vqa.webhook.url"

#: tasks that nobody waits for, which asyncio does not hold
_background: set[asyncio.Task[None]] = set()


class PieceSource(Protocol):
    """An answer in pieces; `AsyncAnswerStream` is one."""

    @property
    def answer(self) -> Answer | None: ...

    async def __anext__(self) -> TextPiece: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """An admitted request."""

    context: Context
    caller: Caller
    chat: ChatJob
    #: whether the job goes on if the client leaves, which may send the request again by its key
    keeps_job: bool

    @classmethod
    async def admit(
        cls, context: Context, caller: Caller, chat: ChatJob, *, has_key: bool = False, waits: bool = True
    ) -> Self:
        """Admit a request that `waits` for its answer or does not.

        Raises Forbidden, RateLimited, KeyReused, QueueUnavailable, and NoWorker for an interactive request that waits.
        """
        job = chat.job
        tested = is_test_model(chat.model, context.settings)
        if chat.webhook_url is not None:
            context.webhooks.check(chat.webhook_url, caller, _WEBHOOK)
        repeated = has_key and await is_repeated(context, chat)
        if not repeated:
            if waits and not tested and job.lane == "interactive":
                # an event loop that is busy hears Redis late; if Redis is away, the submission says so
                with suppress(QueueUnavailable):
                    await context.readiness.require_worker()
            timeout_s = job.timeout_s or context.queue_settings.timeout_s(job.lane)
            tokens = prompt_tokens(job) + job.max_new_tokens
            await context.admission.reserve(caller, chat.id, tokens=tokens, lane=job.lane, timeout_s=timeout_s)
        exchange = cls(context, caller, chat, has_key)
        if chat.webhook_url is not None and not repeated:
            await exchange._watch(chat.webhook_url)
        return exchange

    async def _watch(self, url: str) -> None:
        """Have the webhook sent at the job's end; it is forgotten if no job comes within a minute."""
        try:
            await self.context.webhooks.watch(self.chat.id, url, self.caller, _WEBHOOK)
        except VQAError:
            self.settle(0)
            raise

    async def submit(self) -> None:
        """Put the job on the queue and wait for nothing else. Raises QueueFull, ImageMissing, QueueUnavailable."""
        try:
            await self._submit()
        except VQAError:
            self.settle(0)
            raise

    async def answer(self) -> Answer:
        """Submit the job and wait for its answer. Raises the job's error.

        Cancelling the task that waits cancels the job.
        """
        submission = self._start()
        try:
            answer = await self._answer_to(asyncio.shield(asyncio.wrap_future(submission)))
        except VQAError:
            self.settle(0)
            raise
        except BaseException:
            self._withdrawals().withdraw(self.chat.id, submission=submission)
            self.leave(0)
            raise
        self.settle(used_tokens(answer))
        return answer

    async def _answer_to(self, submission: Awaitable[None]) -> Answer:
        client, id, timeout_s = self.context.client, self.chat.id, self._timeout_s() + _GRACE_S
        if not self.keeps_job:
            return await client._answer_new(id, submission, timeout_s)
        # a request with the same key may have submitted the job before, in any process
        await submission
        return await client.answer(id, timeout_s)

    def pieces(self) -> PieceSource:
        """Return the answer in pieces; the first one that is awaited submits the job. Leaving cancels the job."""
        client = self.context.client
        if is_test_model(self.chat.model, self.context.settings):
            return _WholeAnswer(self.answer())
        return AsyncAnswerStream(
            *(client._queue, client._replies, self._withdrawals(), self.chat.id, self._start),
            is_new=not self.keeps_job,
        )

    def _start(self) -> Future[None]:
        client = self.context.client
        if is_test_model(model := self.chat.model, self.context.settings):
            return client._threads.start_short(_answer_at_once, client._queue, self.chat.prepared, model)
        return client._threads.start_short(_submit, client._queue, self.chat.prepared)

    async def _submit(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._start()))

    def _withdrawals(self) -> Withdrawals:
        return _NoWithdrawals() if self.keeps_job else self.context.client._withdrawals

    def _timeout_s(self) -> float:
        job = self.chat.job
        return job.timeout_s or self.context.queue_settings.timeout_s(job.lane)

    def settle(self, used: int) -> None:
        """Refund the tokens that were not used, without making the client wait; harmless if done before.

        A refund that is lost expires with the job's deadline.
        """
        _in_background(self.context.admission.settle(self.caller, self.chat.id, used))

    def leave(self, used: int) -> None:
        """Settle for a client that left before the end; a job that goes on stays counted until it has ended."""
        if not self.keeps_job:
            self.settle(used)


def used_tokens(answer: Answer) -> int:
    return 0 if answer.reused else answer.usage.total_tokens


def prompt_tokens(job: Job) -> int:
    """Return an estimate of the prompt's tokens before the job runs."""
    parts = [part for message in job.messages for part in message.content]
    characters = sum(len(part.text) for part in parts if part.type == "text")
    images = sum(part.type == "image" for part in parts)
    return text_tokens(characters) + images * _IMAGE_TOKENS + _TEMPLATE_TOKENS


def text_tokens(characters: int) -> int:
    """Return an estimate of the tokens of a text."""
    return -(-characters // _CHARACTERS_PER_TOKEN)


class _WholeAnswer:
    """An answer that is there at once, in two pieces, so that a reader sees that answers come in pieces."""

    def __init__(self, work: Coroutine[Any, Any, Answer]) -> None:
        self.answer: Answer | None = None
        self._work = work
        self._pieces = self._read()

    async def _read(self) -> AsyncIterator[TextPiece]:
        answer = await self._work
        middle = (len(answer.text) + 1) // 2
        for text in filter(None, (answer.text[:middle], answer.text[middle:])):
            yield TextPiece(text, answer.attempt)
        self.answer = answer

    async def __anext__(self) -> TextPiece:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        self._work.close()


class _NoWithdrawals(Withdrawals):
    """Leaves jobs as they are."""

    def __init__(self) -> None:
        pass

    def withdraw(self, id: str, *_: object, **__: object) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _submit(queue: JobQueue, prepared: PreparedJob) -> None:
    with _images_of(prepared):
        offered = queue.submit_chunk([prepared])
    if offered.error:
        raise offered.error


def _answer_at_once(queue: JobQueue, prepared: PreparedJob, model: str) -> None:
    with _images_of(prepared), queue.redis_errors():
        refused = answer_at_once(queue, [prepared], model)
    for error in refused.values():
        raise error


@contextmanager
def _images_of(prepared: PreparedJob) -> Iterator[None]:
    """Free the images at the end: Redis has them, and the answer may be waited for long."""
    try:
        yield
    finally:
        cast(dict[str, bytes], prepared.images).clear()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        # Redis may be away
        with suppress(VQAError):
            await work

    task = asyncio.get_running_loop().create_task(run())
    _background.add(task)
    task.add_done_callback(_background.discard)
