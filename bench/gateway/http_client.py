"""A client of HTTP/1.1 that costs little, so that a load on few cores measures the gateway and not the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

#: bytes of a line, and of an unread part of a response
_LIMIT = 2**20

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpClient:
    """Posts JSON to one server over connections that are kept and reused, as many as there are requests at once.

    Methods raise RuntimeError for a status other than 200, with the response's body.
    """

    def __init__(self, url: str, path: str = "/v1/chat/completions") -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n".encode()
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for _, writer in self._idle:
            writer.close()

    async def open(self, connections: int) -> None:
        """Connect ahead, in portions that a listening socket's queue holds."""
        while connections > 0:
            self._idle += await asyncio.gather(*(self._connect() for _ in range(min(connections, 200))))
            connections -= 200

    async def post(self, body: bytes) -> bytes:
        """Return the response's body."""
        connection = await self._send(body)
        reader, _ = connection
        length = await _head(reader)
        data = (
            b"".join([part async for part in _chunks(reader)]) if length is None else await reader.readexactly(length)
        )
        self._idle.append(connection)
        return data

    async def events(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield the data of server-sent events as they come."""
        connection = await self._send(body)
        reader, _ = connection
        if await _head(reader) is not None:
            raise RuntimeError("the response is no stream")
        async for chunk in _chunks(reader):
            for line in chunk.splitlines():
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ")
        self._idle.append(connection)

    async def _connect(self) -> _Connection:
        return await asyncio.open_connection(self._host, self._port, limit=_LIMIT)

    def _kept(self) -> _Connection | None:
        """Return an idle connection that the server has not closed, if there is one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _send(self, body: bytes) -> _Connection:
        connection = self._kept() or await self._connect()
        connection[1].writelines([self._head, b"Content-Length: %d\r\n\r\n" % len(body), body])
        return connection


async def _head(reader: asyncio.StreamReader) -> int | None:
    """Read a response's headers; return the length of its body, None if it is chunked."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    length = int(headers[b"content-length"]) if b"content-length" in headers else None
    if status.split()[1] != b"200":
        said = b""
        with suppress(asyncio.IncompleteReadError):
            said = await reader.readexactly(length or 0)
        raise RuntimeError(f"{status.decode()}: {said.decode(errors='replace')}")
    return length


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
