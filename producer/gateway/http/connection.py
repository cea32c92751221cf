"""Reads a request's body, and notices that its client has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from producer.gateway.errors import ClientGone, UnsupportedType
from producer.gateway.tasks import end_tasks

T = TypeVar("T")


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json_bytes(request: Request) -> bytes:
    """Return the body. Raises UnsupportedType unless it is sent as JSON, which a page of another origin cannot."""
    if media_type(request) != "application/json":
        raise UnsupportedType("send the body as JSON, with the header Content-Type: application/json")
    with while_sending("the body"):
        body = await request.body()
    # Starlette would hold it until the answer is sent
    request._body = b""
    return body


@contextmanager
def while_sending(what: str) -> Iterator[None]:
    """Raise ClientGone if the client closes the connection before all of its body has been read."""
    try:
        yield
    except ClientDisconnect:
        raise ClientGone(f"the client closed the connection while it sent {what}") from None


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
