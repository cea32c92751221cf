"""An answer as it is generated, for the synchronous client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from celery.backends.base import Backend

from producer.client.cursor import Cursor
from producer.client.job_queue import JobQueue
from producer.client.reply_reader import ReplyReader
from producer.client.states import answer_of
from producer.client.waiters import Waiter, arrived, next_check
from producer.client.withdrawals import Withdrawals
from vqa.answer import Answer
from vqa.errors import VQAError
from vqa.ledger.text_stream import Portion


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next part of an answer's text."""

    text: str
    #: the attempt at the job that generated it, from 1
    attempt: int
    #: the text so far is void, and this is the beginning of another: the job runs again after a lost worker or an error
    restarted: bool = False


class StreamedText:
    """Turns the portions of a job's text, which may be lost, repeated or late, into pieces.

    The pieces since the last restart, joined, always begin the text of the newest attempt that was seen. With the one
    that `finish` returns they are the answer's text.
    """

    def __init__(self) -> None:
        #: the answer, once it is there
        self.answer: Answer | None = None
        self._text = ""
        #: attempt of `_text`
        self._attempt = 0
        #: attempt and start of the newest lease seen
        self._newest = (0, 0)
        #: whether `_text` is of an earlier lease
        self._stale = False

    def read(self, backend: Backend, waiter: Waiter) -> TextPiece | None:
        """Return the next piece of what has arrived, if any; set `answer` with the last one. Raises the job's error."""
        for _, outcome in arrived(backend, waiter):
            self.answer = answer_of(outcome)
            return self.finish(self.answer)
        while waiter.cursor and waiter.cursor.portions:
            if piece := self.add(waiter.cursor.portions.popleft()):
                return piece
        return None

    def add(self, portion: Portion) -> TextPiece | None:
        """Return what is new in the portion, if it follows the text so far."""
        lease = (portion.attempt, portion.taken)
        if lease > self._newest:
            self._newest, self._stale = lease, True
        known = 0 if self._stale else len(self._text)
        if lease < self._newest or portion.start > known:
            return None
        return self._piece(portion.text[known - portion.start :], portion.attempt)

    def finish(self, answer: Answer) -> TextPiece | None:
        """Return what is missing of the answer's text."""
        if not answer.text.startswith(self._text) or self._attempt not in (0, answer.attempt):
            self._stale = True
            # no text at all may be what restarts
            return self._piece(answer.text, answer.attempt) or self._restart("", answer.attempt)
        self._stale = False
        return self._piece(answer.text[len(self._text) :], answer.attempt)

    def _piece(self, text: str, attempt: int) -> TextPiece | None:
        if not text:
            return None
        if self._stale:
            return self._restart(text, attempt)
        self._text += text
        return TextPiece(text, attempt)

    def _restart(self, text: str, attempt: int) -> TextPiece:
        piece = TextPiece(text, attempt, restarted=bool(self._text))
        self._text, self._attempt, self._stale = text, attempt, False
        return piece


class AnswerStream(Iterator[TextPiece]):
    """Yields the text of one job's answer in pieces, as a worker generates it; made by `Client.stream`.

    Since the last piece with `restarted`, the pieces joined are the answer's text. A job without pieces, because its
    answer was reused or its worker is of an older release, gives its text as one piece. Raises the error that the job
    failed with, and QueueUnavailable once Redis has been unreachable for redis_timeout_s; then the job goes on.

    Leaving it before the end cancels the job: by `close`, at the end of a `with` block, or by dropping it. For one
    thread at a time; but another one may `close` it, which ends the iteration.
    """

    def __init__(self, queue: JobQueue, replies: ReplyReader, withdrawals: Withdrawals, id: str) -> None:
        """Follow a job that was submitted with `stream`."""
        #: of the job
        self.id = id
        self._over = False
        self._queue = queue
        self._replies = replies
        self._withdrawals = withdrawals
        self._text = StreamedText()
        self._waiting: AbstractContextManager[Waiter] | None = None
        self._pid = os.getpid()

    @property
    def answer(self) -> Answer | None:
        """The whole answer once the last piece was read, else None."""
        return self._text.answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextPiece:
        if self._over:
            raise StopIteration
        try:
            piece = self._next()
        except (VQAError, RuntimeError):
            # the job has ended; or it goes on, as Redis is away or the client is closed
            closed_elsewhere = self._over
            self._leave()
            if closed_elsewhere:
                raise StopIteration from None
            raise
        except BaseException:
            self.close()
            raise
        if self.answer is not None:
            self._leave()
        if piece is None:
            raise StopIteration
        return piece

    def _next(self) -> TextPiece | None:
        """Return the next piece; None if the answer is there and all of its text was returned."""
        waiter = self._waiter()
        while True:
            piece = self._text.read(self._queue.backend, waiter)
            if piece or self.answer is not None:
                return piece
            self._replies.wait_until(waiter, next_check())

    def _waiter(self) -> Waiter:
        if self._waiting is None:
            self._waiting = self._replies.waiting([self.id], Cursor(self.id))
            self._entered = self._waiting.__enter__()
            # it may have ended already
            self._replies.look([self.id])
        return self._entered

    def _leave(self) -> None:
        self._over = True
        exit_waiting(self._waiting)

    def close(self) -> None:
        """Leave the stream; return once its job, if it is open, is cancelled. If Redis is away, that is only logged."""
        if not self._over:
            self._withdraw().result()

    def _withdraw(self) -> Future[None]:
        self._over = True
        return self._withdrawals.withdraw(self.id, partial(exit_waiting, self._waiting))

    def __del__(self) -> None:
        # in a forked child it is the parent's; the client may be closed, or Python ending
        if not getattr(self, "_over", True) and self._pid == os.getpid():
            with suppress(RuntimeError):
                self._withdraw()


def exit_waiting(waiting: AbstractContextManager[Waiter] | None) -> None:
    if waiting is not None:
        waiting.__exit__(None, None, None)
