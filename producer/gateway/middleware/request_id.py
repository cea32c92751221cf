"""Gives each request an id and a trace, and sends the id back."""

from __future__ import annotations

import random
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.http.headers import REQUEST_ID

#: seeded by the system once: ids are no secrets, and each call of the system lets go of the interpreter's lock
_random = random.Random()

#: an id that a caller may give: what is safe in a header and in a log
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

#: version 00 of https://www.w3.org/TR/trace-context/; a later version may have more fields
_TRACE = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class RequestId:
    """Sets `request.state.request_id`, and `request.state.trace`: a W3C traceparent, the caller's or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else f"req_{_hex(24)}"
        # a copy: requests of one connection share the server's
        scope["state"] = {
            **scope.get("state", {}),
            "request_id": request_id,
            "trace": valid_trace(headers.get("traceparent", "")) or new_trace(),
        }

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def valid_trace(given: str) -> str | None:
    """Return a traceparent as version 00, or None if it is not valid, in which case W3C has it replaced."""
    found = _TRACE.fullmatch(given)
    if found is None or (found[1] == "00" and len(given) > 55):
        return None
    return f"00-{found[2]}-{found[3]}-{found[4]}"


def new_trace() -> str:
    """Return a new traceparent, not sampled: whether to keep a trace is the decision of whoever starts it."""
    return f"00-{_hex(32)}-{_hex(16)}-00"


def _hex(digits: int) -> str:
    return f"{_random.getrandbits(4 * digits):0{digits}x}"
