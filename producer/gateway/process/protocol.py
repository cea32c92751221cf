"""HTTP on one connection, with an end for clients that are slow on purpose or by accident.

uvicorn limits neither how long nor how large a request's headers may be, and waits for ever for a client that reads
nothing. A request that comes before the response to the last one (pipelining) is dropped: the connection ends with that
response. How slowly a body may come is limited by `producer.gateway.middleware.body_deadline`.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: seconds from a connection's or a request's first byte to the end of its headers
HEADERS_S: Final = 15.0
#: bytes of a request's line and headers
MAX_HEADER_BYTES: Final = 64 * 2**10
#: bytes around a chunk's content that each byte of content allows, besides MAX_HEADER_BYTES for all: chunks of one byte
#: have five
MAX_FRAMING: Final = 16
#: seconds in which a client has to read something of what waits for it
READ_S: Final = 60.0
#: seconds that a connection may be idle between two requests: longer than clients keep one in their pool (httpx: 5)
IDLE_S: Final = 75
#: seconds that the rest of a body is read and dropped after its response, so that the client sees the response
LINGER_S: Final = 10.0


class Config(uvicorn.Config):
    """uvicorn's configuration."""

    #: connections at once
    max_connections: int = 1000


class Timer:
    """Calls a function after a time unless it is stopped; starting it again while it runs changes nothing."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, call: Any, *arguments: object) -> None:
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(seconds, call, *arguments)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with timers."""

    config: Config

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers, self._reading, self._linger = Timer(), Timer(), Timer()
        #: bytes received since the headers in progress began
        self._header_bytes = 0
        #: bytes of the request after its headers that are not its body: sizes and extensions of chunks, and trailers
        self._framing_bytes = 0
        #: whether the request's end has been received
        self._received = True
        #: whether nothing more is read, because what came is no request that the application could answer
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's, too
        super().connection_made(transport)
        self._headers.start(HEADERS_S, self._headers_late)
        if len(self.connections) > self.config.max_connections:
            self._refuse(503, "this gateway process has no room for another connection")
            # each is one more open file
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._headers, self._reading, self._linger):
            timer.stop()
        super().connection_lost(exc)
        # uvicorn's timer, which it stops only if the client closed in order, would hold all this for IDLE_S
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._received:
            # between two requests: uvicorn's own timer ends with any byte, this one begins
            self._headers.start(HEADERS_S, self._headers_late)
            self._header_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if self._received and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        elif self._framing_bytes > MAX_HEADER_BYTES:
            self._refuse(400, "the request's chunks or trailers are too large")

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # uvicorn would read no further, and so not see that the client leaves; RFC 9112 has it send again
            self._refused = True
            self.cycle.keep_alive = False
            # httptools ends parsing for this
            raise ValueError("pipelined request")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # after the body it is a trailer: uvicorn would add it to the headers, which have been checked
        if self._received:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers.stop()
        self._header_bytes, self._received = 0, False
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEADER_BYTES:
            self._refuse_headers()
            # httptools ends parsing for this
            raise ValueError("headers too large")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body) * (1 + MAX_FRAMING)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._received, self._framing_bytes = True, 0
        self._linger.stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._reading.start(READ_S, self.transport.abort)
        elif not self._received:
            self._unset_keepalive_if_required()
            self._linger.start(LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.start(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self._reading.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no valid HTTP request")

    def _unsupported_upgrade_warning(self) -> None:
        # answered as a plain request; a warning for each would let anybody fill the log
        return

    def _headers_late(self) -> None:
        self._headers.stop()
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(408, "the request's headers did not arrive in time")
        else:
            # bytes after a request whose answer takes its time, such as the line break that old clients send
            self._headers.start(HEADERS_S, self._headers_late)

    def _refuse_headers(self) -> None:
        self._refuse(431, f"the request's headers have more than {MAX_HEADER_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application and close; a response in progress is cut off."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        self.transport.write(_response(status, message))
        # with bytes unread, closing at once would reset the connection before the client has read the response
        self.transport.write_eof()
        self._linger.start(LINGER_S, self.transport.abort)


def _response(status: int, message: str) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": "bad_http" if status < 500 else "overloaded"}
    body = json.dumps({"error": error}).encode()
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *(["retry-after: 5"] if status == 503 else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
