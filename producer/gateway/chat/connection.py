"""What a client's connection says: its body, and that the client has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from starlette.requests import ClientDisconnect, Request

from producer.gateway.errors import RequestError
from producer.gateway.tasks import end_tasks

T = TypeVar("T")


class ClientGone(RequestError):
    """The client closed its connection; nobody reads the response. nginx logs the same status."""

    status: ClassVar[int] = 499


class UnsupportedType(RequestError):
    """The body has another content type than those that are read."""

    status: ClassVar[int] = 415


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json_bytes(request: Request) -> bytes:
    """Return the body. Raises UnsupportedType unless it is sent as JSON, which a page of another origin cannot."""
    if media_type(request) != "application/json":
        raise UnsupportedType("send the body as JSON, with the header Content-Type: application/json")
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientGone("the client closed the connection while it sent the body") from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Cancel it and raise ClientGone if the client closes the connection before.

    The body must have been read.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client closed the connection before the answer was there")
    finally:
        await end_tasks(working, gone)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
