"""A small HTTP server with OpenAI's API that answers, paces and misbehaves as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from vqa.fetch.loop_thread import LoopThread

MODEL = "a-model"


class Exchange:
    """One request, and the response to it."""

    def __init__(self, body: Mapping[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.body = body
        self._reader, self._writer = reader, writer

    async def respond(self, status: int, body: object, **headers: str) -> None:
        """Send a whole response; bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        self._head(status, fields)
        self._writer.write(data)
        await self._writer.drain()

    async def begin(self) -> None:
        """Begin a stream."""
        self._head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await self._writer.drain()

    async def send(self, data: object) -> None:
        """Send an event; a string as it is."""
        await self.raw(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())

    async def raw(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def break_off(self) -> None:
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            await self._reader.read()

    def _head(self, status: int, fields: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())


Handle = Callable[[Exchange], Awaitable[None]]


def delta(text: str | None = None, finish: str | None = None, index: int = 0, **more: object) -> dict[str, Any]:
    """Return a chunk of a stream."""
    fields = {"content": text} if text is not None else {}
    choice: dict[str, Any] = {"index": index, "delta": {**fields, **more}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def streams(*pieces: str, chunks: Sequence[Mapping[str, Any]] = (), pause_s: float = 0.0) -> Handle:
    """Answer with these pieces of text, or with these chunks."""

    async def handle(exchange: Exchange) -> None:
        await exchange.begin()
        for chunk in chunks or [*map(delta, pieces), delta(finish="stop")]:
            await asyncio.sleep(pause_s)
            await exchange.send(chunk)
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 3}}
        await exchange.send({"choices": [], "usage": usage})
        await exchange.send("[DONE]")
        await exchange.end()

    return handle


def refuses(status: int, error: Mapping[str, Any] | None = None, **headers: str) -> Handle:
    async def handle(exchange: Exchange) -> None:
        await exchange.respond(status, {"error": error or {"message": "no", "type": "server_error"}}, **headers)

    return handle


class ChatServer:
    """Answers each chat request by the next of `script`, and by its last one for ever."""

    def __init__(self, *script: Handle, models: Sequence[str] = (MODEL,), owner: str = "vllm", port: int = 0) -> None:
        self.script = list(script)
        self.bodies: list[Mapping[str, Any]] = []
        self.headers: list[str] = []
        self.connections = 0
        #: what /v1/models says, or None for a handler's status
        self.models: Handle = self._list(models, owner)
        self.metrics: Handle = refuses(404)
        self._closed = False
        self._thread = LoopThread("chat-server")
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = self._thread.submit(asyncio.start_server(self._serve, "127.0.0.1", port)).result()
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        """Stop as a killed process does."""
        if not self._closed:
            self._closed = True
            self._thread.close(self._stop())

    async def _stop(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    @staticmethod
    def _list(models: Sequence[str], owner: str) -> Handle:
        async def handle(exchange: Exchange) -> None:
            await exchange.respond(200, {"data": [{"id": name, "owned_by": owner} for name in models]})

        return handle

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            # the standard library logs an error for a cancelled task
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                    await self._handle(head, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _handle(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sizes = [line.partition(":")[2] for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        data = await reader.readexactly(int(sizes[0])) if sizes else b"{}"
        exchange = Exchange(json.loads(data), reader, writer)
        path = head.split()[1]
        if path.endswith("/models"):
            await self.models(exchange)
        elif path.endswith("/metrics"):
            await self.metrics(exchange)
        else:
            self.headers.append(head)
            self.bodies.append(exchange.body)
            await (self.script.pop(0) if len(self.script) > 1 else self.script[0])(exchange)


class Paced:
    """Answers as many requests at once as it has places, each in `pieces` x `pause_s` seconds; the others wait."""

    def __init__(self, places: int, pieces: int = 4, pause_s: float = 0.01) -> None:
        self._places = asyncio.Semaphore(places)
        self._pieces, self._pause_s = pieces, pause_s
        self.waiting = self.running = self.answered = self.most = 0

    async def chat(self, exchange: Exchange) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting + self.running)
        async with self._places:
            self.waiting -= 1
            self.running += 1
            await asyncio.sleep(self._pause_s)
            await streams(*["a"] * self._pieces, pause_s=self._pause_s)(exchange)
            self.running -= 1
            self.answered += 1

    async def gauge(self, exchange: Exchange) -> None:
        text = f'vllm:num_requests_waiting{{engine="0"}} {self.waiting}.0\nvllm:num_requests_running {self.running}\n'
        await exchange.respond(200, text.encode(), Content_Type="text/plain")
