"""One chat request and its job, from admission to the settlement of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, cast

from producer.client.job_queue import JobQueue
from producer.gateway.access.caller import Caller
from producer.gateway.chat.echo_models import answer_at_once, is_test_model
from producer.gateway.chat.idempotency import is_repeated
from producer.gateway.chat.job_builder import ChatJob
from producer.gateway.chat.pieces import PieceSource, WholeAnswer
from producer.gateway.chat.tokens import answer_tokens, prompt_tokens, used_tokens
from producer.gateway.context import Context
from vqa.answer import Answer
from vqa.errors import QueueUnavailable, VQAError
from vqa.gateway_settings import GatewaySettings

#: seconds after its deadline within which a worker, the janitor or a waiting client closes a job
_GRACE_S = 5.0

#: the field of a request
_WEBHOOK = "vqa.webhook.url"


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A chat request that its API key's limits and the workers allow."""

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

        Raises Forbidden, RateLimited, KeyReused, NotFound, QueueUnavailable, and NoWorker for an interactive
        request that waits.
        """
        job = chat.job
        tested = is_test_model(chat.model, context.settings)
        if chat.webhook_url is not None:
            context.webhooks.check(chat.webhook_url, caller, _WEBHOOK)
        repeated = has_key and await is_repeated(context, chat)
        if not tested:
            chat = chat.for_model(await context.readiness.named_model(chat.model))
        if not repeated:
            if waits and not tested and job.lane == "interactive":
                # an event loop that is busy hears Redis late; if Redis is away, the submission says so
                with suppress(QueueUnavailable):
                    await context.readiness.require_worker(chat.job.model)
            timeout_s = context.queue_settings.job_timeout_s(job)
            tokens = prompt_tokens(job) + answer_tokens(job)
            await context.admission.reserve(caller, chat.id, tokens=tokens, lane=job.lane, timeout_s=timeout_s)
        admitted = cls(context, caller, chat, keeps_job=has_key)
        if chat.webhook_url is not None and not repeated:
            await admitted._watch(chat.webhook_url)
        return admitted

    async def _watch(self, url: str) -> None:
        """Have the webhook sent at the job's end; it is forgotten if no job comes within a minute."""
        try:
            trace = self.chat.prepared.trace
            await self.context.webhooks.watch(self.chat.id, url, self.caller, _WEBHOOK, trace=trace)
        except VQAError:
            self.settle(0)
            raise

    async def submit(self) -> None:
        """Put the job on the queue and wait for nothing else. Raises QueueFull, ImageMissing, QueueUnavailable."""
        try:
            await _shielded(self._start())
        except VQAError:
            self.settle(0)
            raise

    async def answer(self) -> Answer:
        """Submit the job and wait for its answer. Raises the job's error.

        Cancelling the task that waits cancels the job, unless the request has an Idempotency-Key.
        """
        submission = self._start()
        try:
            answer = await self._answer_to(_shielded(submission))
        except VQAError:
            self.settle(0)
            raise
        except BaseException:
            if not self.keeps_job:
                self.context.client.withdraw(self.chat.id, submission)
            self.leave(0)
            raise
        self.settle(used_tokens(answer))
        return answer

    async def _answer_to(self, submission: Awaitable[None]) -> Answer:
        client, id = self.context.client, self.chat.id
        timeout_s = self.context.queue_settings.job_timeout_s(self.chat.job) + _GRACE_S
        if not self.keeps_job:
            return await client.answer_new(id, submission, timeout_s)
        # a request with the same key may have submitted the job before, in any process
        await submission
        return await client.answer(id, timeout_s)

    def pieces(self) -> PieceSource:
        """Return the answer in pieces; the first one that is awaited submits the job."""
        if is_test_model(self.chat.model, self.context.settings):
            return WholeAnswer(self.answer())
        is_new = cancels = not self.keeps_job
        return self.context.client.pieces(self.chat.id, self._start, is_new=is_new, cancels=cancels)

    def _start(self) -> Future[None]:
        return self.context.client.start(_submit, self.chat, self.context.settings)

    def settle(self, used: int) -> None:
        """Refund the tokens that were not used, without making the client wait; harmless if done before.

        A refund that is lost expires with the job's deadline.
        """
        self.context.admission.settle_soon(self.caller, self.chat.id, used)

    def leave(self, used: int) -> None:
        """Settle for a client that left before the end; a job that goes on stays counted until it has ended."""
        if not self.keeps_job:
            self.settle(used)


def _submit(queue: JobQueue, chat: ChatJob, settings: GatewaySettings) -> None:
    """Put the job on the queue, or answer it if its model is a test model; then free its images. For threads."""
    prepared, error = chat.prepared, None
    try:
        if is_test_model(chat.model, settings):
            with queue.redis_errors():
                error = answer_at_once(queue, [prepared], str(chat.model)).get(chat.id)
        else:
            error = queue.submit_chunk([prepared]).error
    finally:
        # Redis has them, and the answer may be waited for long
        cast(dict[str, bytes], prepared.images).clear()
    if error:
        raise error


def _shielded(submission: Future[None]) -> Awaitable[None]:
    """Wait for a submission, which goes on if the waiting task is cancelled."""
    return asyncio.shield(asyncio.wrap_future(submission))
