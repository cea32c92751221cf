"""Images from web servers: one GET over httpcore2 to an address that was checked, redirects checked like the first."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import aclosing
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin

import httpcore2

from vqa.errors import BadImage
from vqa.fetch.failures import FAILURES, translated
from vqa.fetch.magic import HEAD, is_visual
from vqa.fetch.response import check_headers, check_status, header, is_redirect, no_visual, too_large
from vqa.fetch.retry import Transient
from vqa.fetch.url import WebAddress, parse_web_address
from vqa.net.bounded import BoundedBackend, BoundedStream
from vqa.net.guarded import GuardedBackend

_MOST_REDIRECTS = 3

#: bytes of a response's headers, with interim ones (1xx), of which there may be any number
_MOST_HEADERS = 64 * 2**10

#: a body in smaller pieces than this on average, after so many of them, is sent to keep this process busy
_SMALL_PIECE, _MANY_PIECES = 64, 4096

#: idle connections that are kept, and for how many seconds
_IDLE, _IDLE_S = 16, 5.0

_HEADERS = [
    ("User-Agent", f"vqa-queue/{version('vqa-queue')}"),
    ("Accept", "image/*, application/pdf, video/*, */*;q=0.1"),
    # never unpacked: a small response could become a huge one
    ("Accept-Encoding", "identity"),
]

# at this level it would log headers, and so the addresses of redirects
logging.getLogger("httpcore2").setLevel(logging.INFO)


class WebImages:
    """Fetches images from web servers; belongs to one event loop.

    Uses no proxy, password or cookie, whatever the environment says. A connection that is kept was made to a checked
    address, and is used for the same scheme, host and port only.
    """

    def __init__(
        self,
        check: Callable[[WebAddress], None],
        max_bytes: int,
        first_byte_s: float,
        network: GuardedBackend,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`check` raises BadImage for an address that is not allowed; `first_byte_s` is for each redirect, too."""
        self._check = check
        self._max_bytes = max_bytes
        self._first_byte_s = first_byte_s
        self._private = network.private
        self._pool = httpcore2.AsyncConnectionPool(
            context or httpcore2.default_ssl_context(),
            # the caller bounds how many are used at once; a redirect needs one more for a moment
            max_connections=None,
            max_keepalive_connections=_IDLE,
            keepalive_expiry=_IDLE_S,
            network_backend=BoundedBackend(network, _MOST_HEADERS),
        )

    async def get(self, address: WebAddress) -> bytes:
        """Return the bytes of the image at the address, which was checked.

        Raises BadImage, or Transient if another attempt may succeed. Messages name the host of `address` only: where
        a redirect leads is the server's secret.
        """
        name, current = address.host, address
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                found = await self._request(name, current)
                if isinstance(found, bytes):
                    return found
                current = self._redirected(name, current, found)
        except FAILURES as error:
            raise translated(name, error, current is not address, self._private) from None
        raise BadImage(f"{name}: the server redirects more than {_MOST_REDIRECTS} times")

    async def close(self) -> None:
        await self._pool.aclose()

    def _redirected(self, name: str, current: WebAddress, location: str) -> WebAddress:
        try:
            following = parse_web_address(urljoin(str(current), location).partition("#")[0])
            self._check(following)
        except (BadImage, ValueError):
            raise BadImage(f"{name}: the server redirects to an address that VQA_FETCH_HOSTS does not allow") from None
        return following

    async def _request(self, name: str, address: WebAddress) -> bytes | str:
        """Return the image's bytes, or where a redirect leads."""
        request = httpcore2.Request(
            "GET",
            httpcore2.URL(
                scheme=address.scheme.encode(),
                host=address.host.encode(),
                port=None if address.has_default_port else address.port,
                target=address.target.encode(),
            ),
            headers=[("Host", str(address).split("/")[2]), *_HEADERS],
        )
        try:
            async with asyncio.timeout(self._first_byte_s):
                response = await self._pool.handle_async_request(request)
        except TimeoutError:
            limit = f"{self._first_byte_s:g} s (VQA_FETCH_FIRST_BYTE_S)"
            raise Transient(f"{name}: the server's response does not begin within {limit}") from None
        try:
            if is_redirect(response.status) and (location := header(response.headers, b"location")):
                return location.encode("latin-1").decode("utf-8", "replace")
            check_status(name, response.status, response.headers)
            check_headers(name, response.headers, self._max_bytes)
            return await self._body(name, response)
        finally:
            await response.aclose()

    async def _body(self, name: str, response: httpcore2.Response) -> bytes:
        stream = response.extensions["network_stream"]
        # chunks have headers, too
        _allow(stream, self._max_bytes + self._max_bytes // 8 + _MOST_HEADERS)
        data, pieces = bytearray(), 0
        async with aclosing(response.aiter_stream()) as received:
            async for piece in received:
                begins = len(data) < HEAD <= len(data) + len(piece)
                data += piece
                pieces += 1
                if len(data) > self._max_bytes:
                    raise too_large(name, self._max_bytes)
                if begins and not is_visual(data):
                    raise no_visual(name)
                if pieces > _MANY_PIECES and len(data) < pieces * _SMALL_PIECE:
                    raise BadImage(f"{name}: the server sends the image in pieces of a few bytes")
        if not is_visual(data):
            raise no_visual(name)
        # the next response on this connection has headers again
        _allow(stream, _MOST_HEADERS)
        return bytes(data)


def _allow(stream: Any, left: int) -> None:
    if isinstance(stream, BoundedStream):
        stream.allow(left)
