"""A TCP proxy between clients and Redis, in a thread of the test's process: the network, with its moods."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

#: pieces read and not yet passed on, each way; then the sender's own buffers fill, as on a real network
_IN_FLIGHT = 64


class Proxy:
    """`with Proxy(port) as proxy:` clients connect to `proxy.port` on 127.0.0.1. Moods may change while it runs."""

    def __init__(self, to_port: int, to_host: str = "127.0.0.1") -> None:
        self._to = (to_host, to_port)
        # bound, never listening: the port stays this proxy's while it refuses connections
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._latency_s = 0.0
        self._flows = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def restore(self) -> None:
        """Pass everything on at once. What a silence held back arrives now, late."""
        self._set(0.0, flows=True)

    def slow(self, latency_s: float) -> None:
        """Each piece arrives so much later, each way; many may be under way together."""
        self._set(latency_s, flows=True)

    def silence(self) -> None:
        """A partition: connections stay and new ones are accepted, nothing arrives."""
        self._set(0.0, flows=False)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._call(self._cut())

    def break_connections(self) -> None:
        """Reset every connection; new ones fare as the mood is."""
        self._call(self._break())

    def lead_to(self, port: int) -> None:
        """Reset every connection; new ones lead to this port, as after a failover."""
        self._to = (self._to[0], port)
        self._call(self._break())

    def _set(self, latency_s: float, flows: bool) -> None:
        async def change() -> None:
            self._latency_s = latency_s
            (self._flows.set if flows else self._flows.clear)()
            if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_port=True)

        self._call(change())

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._break()

    async def _break(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self._connections.add(connection)
        writers = [writer]
        try:
            await self._flows.wait()
            back, forth = await asyncio.open_connection(*self._to)
            writers.append(forth)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, forth))
                both.create_task(self._pump(back, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # cancelled by `break_connections` alone; nobody else waits for this task
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._connections.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)

        async def arrive() -> None:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flows.wait()
                if not piece:
                    raise ConnectionResetError
                writer.write(piece)
                await writer.drain()

        async def leave() -> None:
            piece = b"-"
            while piece:
                piece = await _read(reader.read)
                await under_way.put((self._loop.time() + self._latency_s, piece))

        async with asyncio.TaskGroup() as both:
            both.create_task(arrive())
            both.create_task(leave())


async def _read(read: Callable[[int], Awaitable[bytes]]) -> bytes:
    """The next piece; a connection that was reset has ended, like one that was closed."""
    try:
        return await read(65536)
    except OSError:
        return b""
