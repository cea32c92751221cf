"""Gives each request an id and a trace, and sends the id back."""

from __future__ import annotations

import random
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.http.headers import REQUEST_ID
from producer.gateway.middleware.request_span import RequestSpan
from vqa.log.context import logging_about
from vqa.tracing.active import active
from vqa.tracing.traceparent import Traceparent

#: seeded by the system once: ids are no secrets, and each call of the system lets go of the interpreter's lock
_random = random.Random()

#: an id that a caller may give: what is safe in a header and in a log
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

#: requests of which there are many, and of which no job is made, have no span
_PROBES = frozenset(["/healthz", "/readyz", "/metrics"])


class RequestId:
    """Sets `request.state.request_id`, and `request.state.trace`: a W3C traceparent.

    That is the request's own span if the gateway traces, else the caller's span or a new one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else f"req_{_hex(24)}"
        # what is not valid is replaced, as W3C asks
        caller = Traceparent.parse(headers.get("traceparent"))
        tracing = active() if scope["path"] not in _PROBES else None
        span = RequestSpan(tracing, scope["method"], caller) if tracing else None
        trace = span.trace if span else caller or new_trace()
        # a copy: requests of one connection share the server's
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "trace": str(trace)}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
                if span:
                    span.status = message["status"]
            await send(message)

        with logging_about(request_id=request_id, trace_id=trace.trace_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                if span:
                    span.end(scope)


def new_trace() -> Traceparent:
    """Return a new traceparent, not sampled: whether to keep a trace is the decision of whoever starts it."""
    return Traceparent(_hex(32), _hex(16))


def _hex(digits: int) -> str:
    return f"{_random.getrandbits(4 * digits) or 1:0{digits}x}"
