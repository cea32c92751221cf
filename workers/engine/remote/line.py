"""Prompts that wait for a place at a server: interactive before bulk, then by arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from vqa.jobs.lane import Lane
from workers.engine.fair_share import FairShare
from workers.engine.remote.server import Server


class Line:
    """Gives places to prompts; belongs to one event loop."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._share = FairShare()
        #: by lane
        self._waiting: dict[str, list[tuple[asyncio.Future[Server], Collection[Server]]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def place(self, lane: Lane, avoid: Collection[Server] = ()) -> Server:
        """Wait for a place and return its server, which is one of `avoid` only if all others are away or paused.

        Whoever gets a place gives it back by `leave`. Raises what `fail` was called with.
        """
        future: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, []).append((future, avoid))
        self.serve()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave(future.result())
            raise

    def leave(self, server: Server) -> None:
        """Give a place back."""
        server.in_flight -= 1
        self.serve()

    def serve(self) -> None:
        """Give the places that are free to those who wait."""
        while self._serve_next():
            pass

    def fail(self, error: Exception) -> None:
        """Let everybody who waits fail."""
        for lane in self._lanes():
            for future, _ in self._waiting.pop(lane):
                future.set_exception(error)

    def _serve_next(self) -> bool:
        """Give a place to the first prompt that may have one of those that are free; return whether there was one."""
        for lane in self._share.order(self._lanes()):
            for at, (future, avoid) in enumerate(self._waiting[lane]):
                if (server := self._server(avoid)) is not None:
                    del self._waiting[lane][at]
                    self._share.served(lane, self._lanes())
                    server.in_flight += 1
                    future.set_result(server)
                    return True
                if not avoid:
                    # nobody else gets one either
                    return False
        return False

    def _lanes(self) -> list[str]:
        """Forget prompts that have ended, and return the lanes in which others wait."""
        for lane, waiting in self._waiting.items():
            self._waiting[lane] = [each for each in waiting if not each[0].done()]
        return [lane for lane, waiting in self._waiting.items() if waiting]

    def _server(self, avoid: Collection[Server]) -> Server | None:
        """Return the least busy server: of its places, the smallest share is taken."""
        ready = [server for server in self._servers if server.places and not server.is_paused]
        others = [server for server in ready if server not in avoid]
        free = [server for server in others or ready if server.in_flight < server.places]
        return min(free, key=lambda server: (server.in_flight / server.places, server.in_flight), default=None)
