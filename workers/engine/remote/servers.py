"""All servers of a worker: started, watched, and asked in turn until one answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from vqa.errors import EngineError, NotReady
from vqa.jobs.lane import Lane
from workers.engine.base import EngineUnavailable
from workers.engine.remote.dialect import Dialect
from workers.engine.remote.failures import Broken, Failure, Forbidden, Refusal
from workers.engine.remote.line import Line
from workers.engine.remote.model_list import choose_model
from workers.engine.remote.reply import Reply
from workers.engine.remote.request import ChatRequest
from workers.engine.remote.server import Server
from workers.engine.settings import EngineSettings

log = logging.getLogger(__name__)

#: seconds between two looks: at gauges and open breakers, and at the health of servers that answer nothing just now
_WATCH_S, _HEALTH_S = 1.0, 10.0

#: without a server for this long, prompts return to the queue, where other workers may take them
_GIVE_UP_S = 5.0

#: At the start servers may still load their model; seconds for that, and between two tries.
PATIENCE_S, _RETRY_S = 600.0, 1.0

#: times that one prompt may break off at servers before it is its own failure, and be forbidden by servers that let
#: this worker list their models
_MOST_BROKEN, _MOST_FORBIDDEN = 2, 3


class Servers:
    """Asks servers; belongs to one event loop."""

    def __init__(self, servers: Sequence[Server], on_watch: Callable[[], None] = lambda: None) -> None:
        """`on_watch` is called about once a second: the loop lives."""
        self._servers = servers
        self._line = Line(servers)
        self._on_watch = on_watch
        self._watching: tuple[asyncio.Task[None], ...] = ()
        self._model = ""
        #: whether the model has been seen to think before it answers
        self._thinks = False
        #: since when no server may be asked; None if one may
        self._away_since: float | None = None
        #: requests that may be under way, at all servers together. Read by other threads
        self.places = 0

    async def start(self, settings: EngineSettings, patience_s: float) -> str:
        """Wait for a server and return the model's name. Raises NotReady."""
        until, told = time.monotonic() + patience_s, False
        while True:
            found = await asyncio.gather(*(self._first_look(server) for server in self._servers))
            answered = {server: each for server, each in found if not isinstance(each, Failure)}
            if answered:
                break
            why = "; ".join(f"{server.address}: {failure}" for server, failure in found)
            if all(isinstance(failure, Refusal) for _, failure in found):
                raise NotReady(f"no server takes this worker: {why}. Is VQA_REMOTE_KEY right, and VQA_REMOTE_URLS?")
            if time.monotonic() >= until:
                raise NotReady(f"no server of VQA_REMOTE_URLS answers within {patience_s:g} s: {why}. Start one first")
            if not told:
                told = True
                log.warning("no server answers yet, waiting up to %.0f s: %s", patience_s, why)
            await asyncio.sleep(_RETRY_S)
        self._model = choose_model(settings, [name for served in answered.values() for name in served])
        self._admit(dict(found))
        self._count()
        self._watching = (asyncio.create_task(self._watch()), asyncio.create_task(self._look()))
        return self._model

    async def stop(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*(server.close() for server in self._servers))

    async def answer(self, request: ChatRequest, lane: Lane, reply_to: Callable[[], Reply]) -> tuple[Reply, bool]:
        """Return the reply of a server, and whether the request left room for a thought.

        Raises EngineUnavailable, EngineError if servers fail on this request, InvalidJob or PromptTooLong.
        """
        broken, forbidden, avoid = 0, 0, set[Server]()
        while True:
            thinks, reply = self._thinks, reply_to()
            server = await self._line.place(lane, avoid)
            try:
                await server.answer(request, self._model, reply, thinks)
            except Failure as failure:
                broken += isinstance(failure, Broken)
                forbidden += isinstance(failure, Forbidden)
                if reply.shown or broken >= _MOST_BROKEN or forbidden >= _MOST_FORBIDDEN:
                    raise EngineError(f"{server.address}: {failure}") from None
                avoid.add(server)
            else:
                self._thinks = self._thinks or reply.thinks
                return reply, thinks or server.dialect.bounds_reasoning
            finally:
                self._count()
                self._line.leave(server)

    async def _first_look(self, server: Server) -> tuple[Server, Mapping[str, str] | Failure]:
        try:
            return server, await server.look(None)
        except Failure as failure:
            return server, failure
        except Exception as error:
            # what a client library raises for a name or certificate that it cannot read
            return server, Refusal(type(error).__name__)

    def _admit(self, found: Mapping[Server, Mapping[str, str] | Failure]) -> None:
        for server, served in found.items():
            if isinstance(served, Failure):
                server.fail(Refusal(str(served)))
            elif self._model not in served:
                server.fail(Refusal(f"it does not serve {self._model}"))
            else:
                server.dialect = Dialect(served[self._model])
                log.info("%s serves %s (%s)", server.address, self._model, served[self._model] or "unknown server")

    async def _watch(self) -> None:
        while True:
            self._on_watch()
            self._count()
            # pauses end
            self._line.serve()
            self._return_waiting()
            await asyncio.sleep(_WATCH_S)

    async def _look(self) -> None:
        """Look at gauges and breakers, which takes seconds if a server is silent."""
        healthy_at = dict.fromkeys(self._servers, time.monotonic())
        while True:
            now = time.monotonic()
            due = [each for each in self._servers if each.breaker.is_due or now >= healthy_at[each] + _HEALTH_S]
            healthy_at |= dict.fromkeys(due, now)
            busy = [each for each in self._servers if each.in_flight]
            looks = [*map(self._check, due), *(each.look_at_gauge() for each in busy)]
            for failed in await asyncio.gather(*looks, return_exceptions=True):
                if isinstance(failed, Exception):
                    log.error("a server cannot be looked at", exc_info=failed)
            await asyncio.sleep(_WATCH_S)

    async def _check(self, server: Server) -> None:
        try:
            served = await server.look(self._model)
        except Failure as failure:
            server.fail(failure)
        else:
            server.dialect = Dialect(served[self._model])
            server.breaker.looked()

    def _count(self) -> None:
        self.places = sum(server.places for server in self._servers)
        if self.places:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.monotonic()

    def _return_waiting(self) -> None:
        if self._away_since is not None and time.monotonic() - self._away_since >= _GIVE_UP_S and len(self._line):
            why = "; ".join(f"{server.address}: {server.breaker.reason}" for server in self._servers)
            log.warning("no server answers: %d prompts return to the queue", len(self._line))
            self._line.fail(EngineUnavailable(f"no server of VQA_REMOTE_URLS answers: {why}"))
