"""Clients that send or read slowly, or too much. Times are shortened; sockets, parser and application are real."""

import asyncio
import gc
import json
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from producer.gateway.app import create_app
from producer.gateway.middleware import body_deadline
from producer.gateway.process import protocol
from producer.gateway.process.lifeline import Lifeline
from producer.gateway.process.server import Server
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 0.4)
    monkeypatch.setattr(protocol, "READ_S", 0.4)
    monkeypatch.setattr(protocol, "LINGER_S", 0.4)
    monkeypatch.setattr(body_deadline, "GRACE_S", 0.4)


@asynccontextmanager
async def connected(settings: QueueSettings, max_files: int) -> AsyncIterator[Streams]:
    """Serve the app, and two endpoints that read and write much; yield a connection."""
    app = create_app(settings, GatewaySettings(body_max_bytes=200_000), FilesSettings())
    add_endpoints(app)
    server = Server(app, max_files, Lifeline())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        task = asyncio.create_task(server._serve([listening]))
        try:
            reader, writer = await asyncio.open_connection(*address)
            yield reader, writer
            writer.close()
        finally:
            server.end(0)
            await task


def add_endpoints(app: FastAPI) -> None:
    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.post("/headers")
    async def headers(request: Request) -> list[str]:
        await request.body()
        return [name.decode() for name, _ in request.scope["headers"]]

    @app.get("/much")
    async def much() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield bytes(100_000)

        return StreamingResponse(parts())


def run(settings: QueueSettings, talk: Talk, max_files: int = 1000) -> float:
    """Let a client talk with a server; return the seconds that it took."""

    async def both() -> float:
        async with connected(settings, max_files) as (reader, writer):
            started = time.monotonic()
            async with asyncio.timeout(20):
                await talk(reader, writer)
            return time.monotonic() - started

    return asyncio.run(both())


async def drip(writer: asyncio.StreamWriter, data: bytes, every_s: float = 0.02) -> None:
    """Send byte by byte until the server has closed the connection."""
    for byte in data:
        writer.write(bytes([byte]))
        try:
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(every_s)


async def refusal(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Read a response and wait for the end of the connection; return its status and its error's message."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    [length] = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
    body = await reader.readexactly(length)
    # a reset where we went on sending
    with suppress(ConnectionError):
        assert await reader.read() == b""
    return int(status.split()[1]), json.loads(body)["error"]["message"]


def test_headers_byte_by_byte_are_ended(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dripping = asyncio.create_task(drip(writer, GET + b"X-Many: " + b"a" * 1000))
        assert await refusal(reader) == (408, "the request's headers did not arrive in time")
        dripping.cancel()

    assert run(queue_settings, talk) < 2


def test_a_connection_that_says_nothing_is_ended(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await refusal(reader))[0] == 408

    assert run(queue_settings, talk) < 2


def test_headers_of_a_second_request_have_their_time_too(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET + b"\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        await reader.readuntil(b'{"status":"ok"}')
        # longer than headers may take, and no request has begun
        await asyncio.sleep(0.6)
        dripping = asyncio.create_task(drip(writer, b"\r\n" * 1000))
        assert (await refusal(reader))[0] == 408
        dripping.cancel()

    assert run(queue_settings, talk) < 3


@pytest.mark.parametrize("header", [b"X-Large: " + b"a" * 300_000, b"X-Many: 1\r\n" * 10_000])
def test_large_headers_are_refused(queue_settings: QueueSettings, header: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET + header)
        assert (await refusal(reader))[0] == 431

    run(queue_settings, talk)


def test_a_body_byte_by_byte_is_ended(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 100000\r\n\r\n")
        dripping = asyncio.create_task(drip(writer, bytes(1000)))
        assert await refusal(reader) == (408, "the request's body did not arrive in time")
        dripping.cancel()

    assert run(queue_settings, talk) < 2


def test_a_body_at_a_fair_rate_is_read(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 100000\r\nConnection: close\r\n\r\n")
        for _ in range(10):
            writer.write(bytes(10_000))
            await asyncio.sleep(0.1)
        assert (await reader.read()).endswith(b"\r\n\r\n100000")

    assert run(queue_settings, talk) > 1


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 200001\r\n\r\n", b""), (b"Transfer-Encoding: chunked\r\n\r\n", b"493e1\r\n" + bytes(200_001))],
    ids=["announced", "not announced"],
)
def test_a_body_that_is_too_large_is_refused_and_its_rest_not_read_for_long(
    queue_settings: QueueSettings, framing: bytes, body: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + framing + body)
        dripping = asyncio.create_task(drip(writer, bytes(1000)))
        assert await refusal(reader) == (413, "the request's body is too large")
        dripping.cancel()

    assert run(queue_settings, talk) < 3


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"1;", b"a" * 10_000), (b"0\r\n", b"X-Many: 1\r\n" * 1000), (b"0\r\nX-Large: ", b"a" * 10_000)],
    ids=["an extension", "trailers", "a trailer"],
)
def test_what_is_around_a_body_has_an_end(queue_settings: QueueSettings, start: bytes, more: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + start)
        sent = 0
        with suppress(ConnectionError):
            while not writer.is_closing() and not reader.at_eof():
                writer.write(more)
                sent += len(more)
                await writer.drain()
                await asyncio.sleep(0)
        # what the sockets hold, besides 64 KiB
        assert sent < 10_000_000

    run(queue_settings, talk)


def test_chunks_may_be_small(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        writer.write(b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n100000")

    run(queue_settings, talk)


def test_trailers_are_no_headers(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /headers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        writer.write(b"1\r\na\r\n0\r\nAuthorization: Bearer other\r\n\r\n")
        names = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        assert names == ["host", "transfer-encoding", "connection"]

    run(queue_settings, talk)


def test_a_client_that_does_not_read_is_ended(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        await asyncio.sleep(1.5)
        transport.resume_reading()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(100_000_000)

    run(queue_settings, talk)


def test_nothing_is_kept_of_a_connection_that_was_reset(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET + b"\r\n")
        await reader.readuntil(b'{"status":"ok"}')
        # no isinstance: it would ask objects of torch for their class, and some of these warn
        [kept] = [weakref.ref(each) for each in gc.get_objects() if type(each) is protocol.GatewayProtocol]
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        # `run` ends this long before uvicorn's timer for idle connections
        while kept() is not None:
            await asyncio.sleep(0.05)
            gc.collect()

    run(queue_settings, talk)


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GARBAGE\r\n\r\n"]
)
def test_what_is_no_http_is_refused(queue_settings: QueueSettings, said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        assert await refusal(reader) == (400, "this is no valid HTTP request")

    run(queue_settings, talk)


def test_a_request_before_the_response_to_the_last_one_is_not_answered(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 3\r\n\r\nabc" + GET + b"\r\n")
        replied = await reader.read()
        assert replied.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in replied
        assert replied.endswith(b"\r\n\r\n3")

    run(queue_settings, talk)


def test_an_upgrade_to_a_websocket_is_a_plain_request(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"

    run(queue_settings, talk)


def test_connections_beyond_the_limit_are_told(queue_settings: QueueSettings) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other = await asyncio.open_connection(*writer.get_extra_info("peername"))
        assert (await refusal(other[0]))[0] == 503
        other[1].close()
        writer.write(GET + b"\r\n")
        assert (await reader.readline()).split()[1] == b"200"

    # all but one are kept for other files than connections
    run(queue_settings, talk, max_files=257)
