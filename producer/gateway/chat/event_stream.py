"""An answer as server-sent events in the form of OpenAI's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from anyio import CancelScope
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from producer.client.streams import TextPiece
from producer.gateway.chat.admitted_request import AdmittedRequest
from producer.gateway.chat.pieces import PieceSource
from producer.gateway.chat.tokens import prompt_tokens, text_tokens, used_tokens
from producer.gateway.errors import RequestError, error_object
from producer.gateway.tasks import end_tasks
from producer.openai.chat_chunks import ChatChunks
from vqa.errors import VQAError

#: seconds without a piece after which a comment keeps the connection open; proxies close it after 30 to 60
KEEP_ALIVE_S = 15.0

#: caches do not store a stream, and nginx does not buffer it
HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_DONE = format_sse_event(data_str="[DONE]")


class StreamRestarted(RequestError):
    """The job was lost with its worker after text was sent, and its new answer differs from that text."""

    status = 500


class SentText:
    """Keeps a restarted answer in line with the text that was sent already, which no client can take back."""

    def __init__(self) -> None:
        self.characters = 0
        self._sent: list[str] = []
        #: text that was sent before the restart and has not come again
        self._expected = ""

    def add(self, piece: TextPiece) -> str:
        """Return the part of the piece to send. Raises StreamRestarted if it differs from what was sent."""
        if piece.restarted:
            self._expected = "".join(self._sent)
        overlap = min(len(self._expected), len(piece.text))
        if self._expected[:overlap] != piece.text[:overlap]:
            raise _restarted()
        self._expected = self._expected[overlap:]
        if new := piece.text[overlap:]:
            self._sent.append(new)
            self.characters += len(new)
        return new

    def finish(self) -> None:
        """Raise StreamRestarted if more text was sent than the answer has."""
        if self._expected:
            raise _restarted()


def _restarted() -> StreamRestarted:
    return StreamRestarted(
        "the job's worker was lost after a part of the answer was sent, and the new answer differs; send it again"
    )


class EventStream(EventSourceResponse):
    """The response; however it ends, the job is cancelled unless its answer is there."""

    def __init__(self, request: AdmittedRequest, chunks: ChatChunks) -> None:
        self._request = request
        self._chunks = chunks
        self._sent = SentText()
        self._pieces = request.pieces()
        self._next = asyncio.ensure_future(_next(self._pieces))
        super().__init__(self._events(), headers=HEADERS)

    async def begin(self) -> None:
        """Wait for the first piece or the outcome, but not for long: until now an error can be a status.

        Raises the job's error.
        """
        done, _ = await asyncio.wait({self._next}, timeout=KEEP_ALIVE_S)
        if done:
            self._next.result()

    async def close(self) -> None:
        """Leave the stream."""
        with CancelScope(shield=True):
            await end_tasks(self._next)
            await self._pieces.aclose()
        has_failed = not self._next.cancelled() and self._next.exception() is not None
        if has_failed or self._pieces.answer is not None:
            self._request.settle(self._used_tokens())
        else:
            self._request.leave(self._used_tokens())

    def _used_tokens(self) -> int:
        """Return the answer's tokens; an estimate if the client left after a part of it, 0 if there was none."""
        if answer := self._pieces.answer:
            return used_tokens(answer)
        characters = self._sent.characters
        return prompt_tokens(self._request.chat.job) + text_tokens(characters) if characters else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.close()

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            yield _event(self._chunks.role())
            while True:
                while not (await asyncio.wait({self._next}, timeout=KEEP_ALIVE_S))[0]:
                    yield KEEPALIVE_COMMENT
                if (piece := self._next.result()) is None:
                    break
                self._next = asyncio.ensure_future(_next(self._pieces))
                for event in self._piece_events(piece):
                    yield event
            self._sent.finish()
        except VQAError as error:
            yield _event({"error": error_object(error)})
            return
        for event in self._last_events():
            yield event

    def _piece_events(self, piece: TextPiece) -> Iterator[bytes]:
        if piece.restarted:
            yield _event(self._chunks.restarted(piece.attempt))
        if text := self._sent.add(piece):
            yield _event(self._chunks.text(text))

    def _last_events(self) -> Iterator[bytes]:
        answer = self._pieces.answer
        assert answer is not None
        yield _event(self._chunks.finish(answer))
        if self._request.chat.include_usage:
            yield _event(self._chunks.usage(answer))
        yield _DONE


async def _next(pieces: PieceSource) -> TextPiece | None:
    try:
        return await anext(pieces)
    except StopAsyncIteration:
        return None


def _event(document: Mapping[str, Any]) -> bytes:
    # ASCII: some clients decode each network packet by itself, or split lines at U+2028
    return format_sse_event(data_str=json.dumps(document, separators=(",", ":"), allow_nan=False))
