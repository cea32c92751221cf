"""A file's lines, in pages, with their places in the file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from producer.inputs.jsonl import MAX_LINE_BYTES

#: lines of a page, which is one piece of the file at most, or one long line
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank."""

    #: from 1
    number: int
    #: byte of the file that follows it
    end: int
    #: with its newline; None if it is too long
    data: bytes | None


async def line_pages(
    content: AsyncIterator[bytes], offset: int = 0, number: int = 0, max_bytes: int = MAX_LINE_BYTES
) -> AsyncIterator[list[Line]]:
    """Yield the lines of content that begins at byte `offset`, after line `number`; too long ones are not held."""
    rest = bytearray()
    #: bytes of a too long line that were dropped
    dropped = 0
    page: list[Line] = []

    def add(data: bytes) -> None:
        nonlocal offset, number, dropped
        number += 1
        offset += dropped + len(data)
        if dropped or len(data) > max_bytes:
            page.append(Line(number, offset, None))
        elif data.strip():
            page.append(Line(number, offset, data))
        dropped = 0

    async for piece in content:
        head, *lines = piece.split(b"\n")
        rest += head
        for line in lines:
            add(bytes(rest) + b"\n")
            rest = bytearray(line)
            if len(page) == _PAGE:
                yield page
                page = []
        if len(rest) > max_bytes:
            dropped += len(rest)
            rest.clear()
        if page:
            yield page
            page = []
    if rest or dropped:
        add(bytes(rest))
        if page:
            yield page
