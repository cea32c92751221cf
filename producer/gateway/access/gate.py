"""Middleware before /v1: checks the API key, counts the request, and adds the headers with the rest of its limits.

No dependency of FastAPI, which would read the body first: nobody without a key should make the gateway read 64 MB.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.access.admission import Admission
from producer.gateway.access.caller import Caller
from producer.gateway.access.key_ring import KeyRing
from producer.gateway.access.local import require_local
from producer.gateway.access.windows import duration
from producer.gateway.errors import error_response
from vqa.errors import QueueUnavailable, VQAError
from vqa.gateway_settings import GatewaySettings

_GUARDED = "/v1/"


class _Context(Protocol):
    """What the gate needs of the gateway's context."""

    @property
    def keys(self) -> KeyRing: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def settings(self) -> GatewaySettings: ...


class AccessGate:
    """Puts the Caller into the request's state, where `CallerDep` finds it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED) or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        context = cast(_Context, scope["app"].state.context)
        try:
            headers = Headers(scope=scope)
            caller = await context.keys.caller(_sent_key(headers))
            if not caller.key_id:
                require_local(headers, context.settings)
        except VQAError as error:
            await error_response(error)(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                await _add_limits(context.admission, caller, MutableHeaders(scope=message))
            await send(message)

        scope.setdefault("state", {})["caller"] = caller
        try:
            if _is_counted(scope):
                await context.admission.count(caller)
        except VQAError as error:
            await error_response(error)(scope, receive, send_with_limits)
            return
        await self._app(scope, receive, send_with_limits)


def _sent_key(headers: Headers) -> str | None:
    """Return the key as clients of OpenAI, Azure or Anthropic send it."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("api-key") or headers.get("x-api-key")


def _is_counted(scope: Scope) -> bool:
    """Return whether the request counts: polling and cancelling do not, since no client should put these off."""
    return scope["method"] == "POST" and not scope["path"].endswith("/cancel")


async def _add_limits(admission: Admission, caller: Caller, headers: MutableHeaders) -> None:
    with suppress(QueueUnavailable):
        await admission.look(caller)
    for name, window in (("requests", caller.usage.requests), ("tokens", caller.usage.tokens)):
        if window:
            headers[f"x-ratelimit-limit-{name}"] = str(window.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(window.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(window.reset_s)
