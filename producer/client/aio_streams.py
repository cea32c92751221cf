"""`producer.client.streams` for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self, TypeVar

from producer.client.aio_reply_reader import AsyncReplyReader
from producer.client.cursor import Cursor
from producer.client.job_queue import JobQueue
from producer.client.streams import StreamedText, TextPiece, exit_waiting
from producer.client.waiters import Waiter, next_check
from producer.client.withdrawals import Withdrawals
from vqa.answer import Answer
from vqa.errors import VQAError

T = TypeVar("T")


class AsyncAnswerStream(AsyncIterator[TextPiece]):
    """`AnswerStream` with `await`, made by `AsyncClient.stream`. Submits the job when it is first awaited or entered.

    Cancelling the task that awaits it cancels the job. For one task at a time; but another one may `aclose` it, which
    ends the iteration.
    """

    def __init__(
        self,
        queue: JobQueue,
        replies: AsyncReplyReader,
        withdrawals: Withdrawals | None,
        id: str,
        submit: Callable[[], Future[None]],
        *,
        is_new: bool = False,
    ) -> None:
        """`is_new` says that no job has had the id before. Without `withdrawals`, leaving does not cancel the job."""
        #: of the job
        self.id = id
        self._queue = queue
        self._replies = replies
        self._withdrawals = withdrawals
        self._submit = submit
        self._is_new = is_new
        self._over = False
        self._text = StreamedText()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._submission: Future[None] | None = None
        self._waiting: AbstractContextManager[Waiter] | None = None
        self._pid = os.getpid()

    @property
    def answer(self) -> Answer | None:
        """The whole answer once the last piece was read, else None."""
        return self._text.answer

    async def __aenter__(self) -> Self:
        await self._ending_with(self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextPiece:
        if self._over:
            raise StopAsyncIteration
        piece = await self._ending_with(self._next)
        if self.answer is not None:
            self._leave()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def _ending_with(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step; leave the stream if it fails."""
        try:
            return await step()
        except (VQAError, RuntimeError):
            # the job has ended, or was not accepted; or it goes on, as Redis is away or the client is closed
            self._leave()
            raise
        except BaseException:
            self._abandon()
            raise

    async def _begin(self) -> Waiter:
        if self._waiting is None:
            self._loop = asyncio.get_running_loop()
            self._waiting = self._replies.waiting([self.id], Cursor(self.id))
            self._waiter = self._waiting.__enter__()
            with self._replies.submitting(self.id):
                self._submission = self._submit()
                await asyncio.shield(asyncio.wrap_future(self._submission))
            if not self._is_new:
                # it may have ended already
                await self._replies.look([self.id])
        return self._waiter

    async def _next(self) -> TextPiece | None:
        """Return the next piece; None if all of the answer's text was returned, or another task has left the stream."""
        waiter = await self._begin()
        while not self._over:
            piece = self._text.read(self._queue.backend, waiter)
            if piece or self.answer is not None:
                return piece
            await self._replies.wait_until(waiter, next_check())
        return None

    def _leave(self) -> None:
        self._over = True
        exit_waiting(self._waiting)

    async def aclose(self) -> None:
        """Leave the stream; return once its job, if it is open, is cancelled. If Redis is away, that is only logged."""
        if not self._over and (withdrawn := self._abandon()):
            await asyncio.shield(asyncio.wrap_future(withdrawn))

    def _abandon(self) -> Future[None] | None:
        """Leave without waiting, so that it is possible in a task that is being cancelled."""
        self._leave()
        return self._withdraw()

    def _withdraw(self) -> Future[None] | None:
        if self._withdrawals is None or self._submission is None or self._submission.cancel():
            return None
        return self._withdrawals.withdraw(self.id, submission=self._submission)

    def __del__(self) -> None:
        # in a forked child it is the parent's; the client or the loop may be closed
        if getattr(self, "_over", True) or self._loop is None or self._pid != os.getpid():
            return
        with suppress(RuntimeError):
            self._withdraw()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(exit_waiting, self._waiting)
