"""One server: its window, its breaker, and how it is asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from vqa.errors import VQAError
from workers.engine.remote.address import ServerAddress
from workers.engine.remote.breaker import Breaker
from workers.engine.remote.chunk import Chunk
from workers.engine.remote.dialect import Dialect
from workers.engine.remote.events import data_of, lines, whole
from workers.engine.remote.failures import Away, Broken, Busy, Failure, Refusal, failure_of
from workers.engine.remote.gauge import waiting_and_running
from workers.engine.remote.model_list import named, served_models
from workers.engine.remote.reply import Reply
from workers.engine.remote.request import ChatRequest
from workers.engine.remote.window import Sent, Window

log = logging.getLogger(__name__)

# they log each request, and its headers
logging.getLogger("httpx2").setLevel(logging.WARNING)
logging.getLogger("httpcore2").setLevel(logging.INFO)

#: seconds that a connection is kept for the next request: fewer than the 5 after which uvicorn closes it
_IDLE_S = 3.0

#: seconds for a connection, and for a health check or metrics
CONNECT_S, LOOK_S = 5.0, 5.0

#: pauses after a 429 or 503: the shortest, also without Retry-After, and the longest that is heeded
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

#: bytes of an error or a list of models that are read
_MOST_ERROR = 2**20

#: bytes of a server's metrics: vLLM's have about 100 kB
_MOST_METRICS = 8 * 2**20

#: seconds that the end of a stream may take after the end of its answer
_END_S = 2.0

_JSON = {"Content-Type": "application/json"}
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Silence:
    """Seconds that a server may be silent: before the first piece of an answer, and between two."""

    first_s: float
    next_s: float


class Server:
    """A server of the model; belongs to one event loop."""

    def __init__(self, address: ServerAddress, most: int, silence: Silence) -> None:
        """`most` is the largest window."""
        self.address = address
        self.window = Window(most)
        self.breaker = Breaker()
        self.dialect = Dialect()
        self.in_flight = 0
        self._silence = silence
        self._paused_until = float("-inf")
        #: whether its metrics have the gauges of requests; None before they were looked at
        self._has_gauge: bool | None = None
        self._client = httpx2.AsyncClient(
            headers=address.headers,
            # the engine bounds the time of a request and its silences
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_S),
        )

    @property
    def places(self) -> int:
        """Requests that it may be sent at once now."""
        if self.breaker.state == "open":
            return 0
        return 1 if self.breaker.state == "half-open" else self.window.size

    @property
    def is_paused(self) -> bool:
        """Whether it asked to be sent nothing for now."""
        return time.monotonic() < self._paused_until

    async def close(self) -> None:
        await self._client.aclose()

    async def look(self, model: str | None) -> Mapping[str, str]:
        """Return the models that it serves, and who it says owns them. Raises Failure."""
        served = served_models(await self._get(self.address.models, _MOST_ERROR))
        if model is not None and model not in served:
            raise Refusal(f"it does not serve {model}, but {named(served)}")
        return served

    async def look_at_gauge(self) -> None:
        """Note how many requests wait and run inside, if its metrics tell."""
        if self._has_gauge is False:
            return
        try:
            metrics = await self._get(self.address.metrics, _MOST_METRICS)
        except Failure as failure:
            # one that has shown it once may only be busy
            self._has_gauge = self._has_gauge or (None if isinstance(failure, Away) else False)
            return
        found = waiting_and_running(metrics.decode(errors="replace"))
        self._has_gauge = found is not None
        if found is not None:
            self.window.waiting(*found)

    async def answer(self, request: ChatRequest, model: str, reply: Reply, thinks: bool) -> None:
        """Ask, and let `reply` collect the answer. Raises Failure, InvalidJob or PromptTooLong.

        The caller has counted the request in `in_flight`.
        """
        sent = self.window.sent(self.in_flight)
        try:
            await self._ask(request.body(model, self.dialect, thinks), reply, sent)
        except Failure as failure:
            self.window.overloaded(sent)
            self.fail(failure)
            raise
        except VQAError:
            # the request's own error
            self._succeed()
            raise

    async def _ask(self, body: bytes, reply: Reply, sent: Sent) -> None:
        first_piece_s = None
        try:
            async with asyncio.timeout(self._silence.first_s) as limit:
                tokens = reply.request.params.max_new_tokens
                async with self._send("POST", self.address.chat, tokens, content=body, headers=_JSON) as response:
                    async for chunk in _chunks(response):
                        if chunk is not None:
                            reply.add(chunk)
                        elif reply.finished:
                            continue
                        if reply.begun:
                            first_piece_s = first_piece_s or time.monotonic() - sent.at
                            self._extend(limit, reply)
        except TimeoutError:
            if not reply.finished:
                when = "before the answer began" if first_piece_s is None else "between two pieces"
                silent_s = self._silence.first_s if first_piece_s is None else self._silence.next_s
                raise Broken(f"silent for {silent_s:g} s {when} (VQA_HANG_S)") from None
        except Broken:
            # of an answer that is whole, only the usage is missing
            if not reply.finished:
                raise
        if not reply.finished:
            raise Broken("the stream broke off")
        self.window.answered(sent, first_piece_s or 0.0)
        self._succeed()

    def _extend(self, limit: asyncio.Timeout, reply: Reply) -> None:
        silent_s = min(_END_S, self._silence.next_s) if reply.finished else self._silence.next_s
        limit.reschedule(asyncio.get_running_loop().time() + silent_s)

    def _succeed(self) -> None:
        if self.breaker.succeed():
            log.info("%s answers again", self.address)

    async def _get(self, url: str, most: int) -> bytes:
        """Return what is there, at most so many bytes. Raises Failure."""
        try:
            async with asyncio.timeout(LOOK_S), self._send("GET", url) as response:
                return await whole(response.aiter_bytes(), most)
        except TimeoutError:
            raise Away(f"no answer within {LOOK_S:g} s") from None
        except VQAError as error:
            raise Refusal(str(error)) from None

    @asynccontextmanager
    async def _send(
        self, method: str, url: str, answer_tokens: int = 0, **arguments: Any
    ) -> AsyncIterator[httpx2.Response]:
        """Yield the response, whose status is 200. Raises Failure, InvalidJob or PromptTooLong."""
        try:
            async with self._client.stream(method, url, **arguments) as response:
                if response.status_code != httpx2.codes.OK:
                    body = b""
                    if response.status_code >= httpx2.codes.BAD_REQUEST:
                        body = await whole(response.aiter_bytes(), _MOST_ERROR)
                    raise failure_of(response.status_code, response.headers.raw, body, answer_tokens)
                yield response
        except httpx2.ConnectError as error:
            # what the system or TLS says: an unknown name, a refused connection, a certificate
            raise Away(f"no connection ({error})") from None
        except (httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
            raise Away(f"no connection ({type(error).__name__})") from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise Broken(f"the connection broke off ({type(error).__name__})") from None

    def fail(self, failure: Failure) -> None:
        """Count a failure of a request or a health check."""
        if isinstance(failure, Busy):
            # it lives
            self._paused_until = time.monotonic() + min(_LONGEST_PAUSE_S, max(_PAUSE_S, failure.pause_s))
        elif self.breaker.fail(str(failure), at_once=isinstance(failure, Refusal)):
            what = "refuses this worker" if isinstance(failure, Refusal) else "does not answer"
            log.error("%s %s and is sent no requests for now: %s", self.address, what, failure)


async def _chunks(response: httpx2.Response) -> AsyncIterator[Chunk | None]:
    """Yield the chunks of a stream, or a completion that is whole; None for other signs of life."""
    if response.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        yield Chunk.parse(await whole(response.aiter_bytes()))
        return
    # read to its end, as only then the connection is used again
    async for line in lines(response.aiter_bytes()):
        data = data_of(line)
        yield Chunk.parse(data) if data and data != _DONE else None
