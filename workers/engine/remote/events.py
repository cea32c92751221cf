"""Server-sent events, as far as OpenAI's streams use them: the data of each line `data:`, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from workers.engine.remote.failures import Broken

#: bytes of a line: a chunk with log probabilities of several tokens has kilobytes
MOST_LINE = 4 * 2**20

#: bytes of a response that does not stream: sixteen answers with all their log probabilities
MOST_BODY = 64 * 2**20


async def lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield lines without their ends. Raises Broken for one that is too long."""
    rest = bytearray()
    async for piece in pieces:
        # only what is new may have an end of a line
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield bytes(rest + line).removesuffix(b"\r")
            rest.clear()
        rest += last
        if len(rest) > MOST_LINE:
            raise Broken(f"a line of the stream has more than {MOST_LINE} bytes")
    if rest:
        yield bytes(rest)


def data_of(line: bytes) -> bytes | None:
    """Return the data of a line; None for comments, empty lines and other fields."""
    return line[5:].strip() if line.startswith(b"data:") else None


async def whole(pieces: AsyncIterable[bytes], most: int = MOST_BODY) -> bytes:
    """Return a body. Raises Broken if it is too long."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > most:
            raise Broken(f"the response has more than {most} bytes")
    return bytes(body)
