"""TCP connections that read a limited number of bytes, against peers that send without end."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

from httpcore2 import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream, ReadError


class ResponseTooLong(ReadError):
    """All bytes that may be read are read."""


class BoundedBackend(AsyncNetworkBackend):
    """Another backend's network, of which each connection reads at most `max_bytes`."""

    def __init__(self, network: AsyncNetworkBackend, max_bytes: int) -> None:
        self._network = network
        self._max_bytes = max_bytes

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        stream = await self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        return BoundedStream(stream, self._max_bytes)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SOCKET_OPTION] | None = None
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._network.connect_unix_socket(path, timeout, socket_options), self._max_bytes)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class BoundedStream(AsyncNetworkStream):
    """A connection that reads `left` more bytes."""

    def __init__(self, stream: AsyncNetworkStream, left: int) -> None:
        self._stream = stream
        self._left = left

    def allow(self, left: int) -> None:
        """Let so many bytes be read from now on: a response's body may be longer than its headers."""
        self._left = left

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises ResponseTooLong after the last byte that may be read."""
        if not self._left:
            raise ResponseTooLong("the response is too long")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
