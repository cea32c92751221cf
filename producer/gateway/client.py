"""The queue's client in a gateway process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Concatenate, ParamSpec, TypeVar

from producer.client.aio import AsyncClient
from producer.client.aio_streams import AsyncAnswerStream
from producer.client.job_queue import JobQueue
from producer.client.states import answer_of
from producer.client.waiters import next_check, remaining
from vqa.answer import Answer

P = ParamSpec("P")
T = TypeVar("T")


class GatewayClient(AsyncClient):
    """The client, with the internals that only the gateway needs: it submits a job while it waits for it already."""

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads images or takes milliseconds of CPU time."""
        return await self._threads.image(function, *args, **kwargs)

    def start(self, call: Callable[Concatenate[JobQueue, P], None], *args: P.args, **kwargs: P.kwargs) -> Future[None]:
        """Start an exchange with Redis in a thread, which goes on if nobody waits for it."""
        return self._threads.start_short(call, self._queue, *args, **kwargs)

    async def answer_new(self, id: str, submission: Awaitable[None], timeout_s: float) -> Answer:
        """Await the submission of a job that nobody has submitted before, and its answer. Raises the job's error.

        A new job has no outcome yet, so Redis is not asked for one until the end is announced.
        """
        end = time.monotonic() + timeout_s
        with self._replies.waiting([id]) as waiter:
            with self._replies.submitting(id):
                await submission
            while waiter.pending and time.monotonic() < end:
                await self._replies.wait_until(waiter, min(end, next_check()))
            if waiter.pending:
                self._replies.outage.check()
        [(_, outcome)] = remaining(self._queue.backend, waiter)
        return answer_of(outcome)

    def pieces(self, id: str, submit: Callable[[], Future[None]], *, is_new: bool, cancels: bool) -> AsyncAnswerStream:
        """Return a job's answer in pieces; the first one that is awaited calls `submit`.

        `is_new` says that nobody has submitted the job before, `cancels` that leaving the stream cancels it.
        """
        withdrawals = self._withdrawals if cancels else None
        return AsyncAnswerStream(self._queue, self._replies, withdrawals, id, submit, is_new=is_new)

    def withdraw(self, id: str, submission: Future[None]) -> None:
        """Cancel the job once its submission has ended, in the background."""
        self._withdrawals.withdraw(id, submission=submission)
