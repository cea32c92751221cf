"""Answers errors that no handler expects, and gives Starlette's plain 413 the form of all other errors."""

from __future__ import annotations

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.errors import BodyTooLarge, ShuttingDown, error_response, unexpected_error

log = logging.getLogger(__name__)


class UnexpectedErrors:
    """Answers an exception with 500 and logs it once; a response that has begun is cut off by the server.

    A request that is cancelled, because the gateway stops and waits for it no longer, gets 503. Starlette's plain-text
    413, for a Content-Length above the limit, becomes OpenAI's error object.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = too_large = False

        async def watched(message: Message) -> None:
            nonlocal started, too_large
            if message["type"] == "http.response.start":
                started = True
                too_large = message["status"] == 413 and not _is_json(message)
            if not too_large:
                await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not started:
                await error_response(ShuttingDown("the gateway is stopping; send the request again"))(
                    scope, receive, send
                )
            # a stream that was cut off is closed by the server, because it has no end
        except Exception as error:
            log.error("request %s failed with an unexpected error", scope["state"]["request_id"], exc_info=error)
            if not started:
                await unexpected_error()(scope, receive, send)
        if too_large:
            await error_response(BodyTooLarge("the request's body is too large"))(scope, receive, send)


def _is_json(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("application/json")
