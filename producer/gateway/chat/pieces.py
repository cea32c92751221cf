"""Answers in pieces, for streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from producer.client.streams import TextPiece
from vqa.answer import Answer


class PieceSource(Protocol):
    """An iterator of pieces; `AsyncAnswerStream` is one."""

    @property
    def answer(self) -> Answer | None:
        """The whole answer once the last piece was read, else None."""
        ...

    async def __anext__(self) -> TextPiece: ...

    async def aclose(self) -> None: ...


class WholeAnswer:
    """Splits an answer that is there at once into two pieces, so that a test model streams as others do."""

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
