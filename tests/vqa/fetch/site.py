"""Web servers of the tests' own, in a thread: each request gets what a coroutine writes, byte by byte if it likes."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4

#: writes a response to a request, whose head is given
Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def response(
    body: bytes = PNG, status: str = "200 OK", content_type: str | None = "image/png", **headers: str | None
) -> bytes:
    """Return a response; an underscore in a header's name is a hyphen, and one that is None is left out."""
    fields = {"Content-Length": str(len(body)), "Content-Type": content_type}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(*pieces: bytes, close: bool = False) -> Reply:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return reply


def redirect(location: str, status: str = "302 Found") -> Reply:
    return says(response(b"", status, None, Location=location))


def repeats(start: bytes, piece: bytes, every_s: float = 0.0) -> Reply:
    """Write `start`, then `piece` again and again until the client has gone."""

    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)

    return reply


class Site:
    """A server: the replies to its requests one after the other, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies) or [says(response())]
        self.port = 0
        #: heads of the requests
        self.requests: list[bytes] = []
        self.connections = 0
        #: requests that are being answered, and the most that were at once
        self.running = self.peak = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                self.running += 1
                self.peak = max(self.peak, self.running)
                try:
                    reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                    await reply(head, writer)
                finally:
                    self.running -= 1
        writer.close()


@contextmanager
def served(*sites: Site, context: ssl.SSLContext | None = None) -> Iterator[None]:
    """Serve the sites, each on a port of 127.0.0.1."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> list[asyncio.Server]:
        servers = [await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=context) for site in sites]
        for site, server in zip(sites, servers, strict=True):
            site.port = server.sockets[0].getsockname()[1]
        return servers

    async def stop(servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in (writer for site in sites for writer in site.writers):
            writer.transport.abort()
        # transports are closed in the loop's next turn
        await asyncio.sleep(0.01)

    servers = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(servers), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
