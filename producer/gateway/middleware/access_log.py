"""Writes one line of JSON to standard output for each request, with nothing in it that a user has written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.errors import ClientGone
from producer.gateway.http.methods import METHODS
from vqa.log.format import LogSettings, iso_time


class AccessLog:
    """Writes the line when the response has ended, or its client has gone.

    A path is written as its route, such as `/v1/jobs/{id}`: ids in a path and words in a query may be anything.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        #: whether the log's other lines are JSON, whose fields this one has then, too
        self._logs_json = LogSettings().format == "json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, wall = time.monotonic(), time.time()
        status, bytes_in, bytes_out = ClientGone.status, 0, 0

        async def counted_receive() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
            bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            entry = _entry(scope) | {
                "status": status,
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
                "duration_ms": round((time.monotonic() - started) * 1000, 1),
            }
            line = {"time": iso_time(wall), **(_as_logged(entry) if self._logs_json else {}), **entry}
            # never blocks: `vqa.log.output` writes it
            sys.stdout.write(json.dumps(line) + "\n")


def _as_logged(entry: Mapping[str, Any]) -> dict[str, Any]:
    message = f"{entry['method']} {entry['route']} {entry['status']}"
    return {"level": "INFO", "logger": __name__, "message": message, "trace_id": entry["trace"]}


def _entry(scope: Scope) -> dict[str, Any]:
    state = scope["state"]
    caller = state.get("caller")
    return {
        "request_id": state["request_id"],
        "trace": state["trace"].split("-")[1],
        "method": scope["method"] if scope["method"] in METHODS else "OTHER",
        "route": getattr(scope.get("route"), "path", None),
        "key_id": (caller.key_id or None) if caller else None,
        "job_id": state.get("job_id"),
    }
