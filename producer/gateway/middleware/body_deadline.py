"""Ends requests whose body comes too slowly."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: seconds that may be spent waiting for a body, however small
GRACE_S = 20.0
#: bytes that earn another second; a telephone far from its mast sends several times as many
MIN_BYTES_PER_S = 8 * 2**10


class BodyDeadline:
    """Raises 408 while a body is read once its client has been slower than MIN_BYTES_PER_S, after GRACE_S.

    Only the time counts in which the application waits for the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        left_s, complete = GRACE_S, False

        async def receive_in_time() -> Message:
            nonlocal left_s, complete
            if complete:
                # what comes now is the client's end, which may take as long as the answer
                return await receive()
            started = time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                # an HTTPException, because FastAPI makes 400 of any other error while it reads a body
                raise HTTPException(
                    408, "the request's body did not arrive in time", headers={"Connection": "close"}
                ) from None
            left_s += len(message.get("body", b"")) / MIN_BYTES_PER_S - (time.monotonic() - started)
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)
