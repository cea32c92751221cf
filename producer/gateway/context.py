"""What all endpoints of one gateway process share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import redis.asyncio
from fastapi import Depends, Request

from producer.client.aio import AsyncClient
from producer.gateway.access.admission import Admission
from producer.gateway.readiness import Readiness
from vqa.connection import connect_async
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings


@dataclass(frozen=True)
class Context:
    """Settings and connections of one gateway process."""

    queue_settings: QueueSettings
    settings: GatewaySettings
    files_settings: FilesSettings
    client: AsyncClient
    #: for what is no job: keys, budgets, files
    redis: redis.asyncio.Redis
    admission: Admission
    readiness: Readiness


@asynccontextmanager
async def open_context(
    queue_settings: QueueSettings, settings: GatewaySettings, files_settings: FilesSettings
) -> AsyncIterator[Context]:
    """Open the connections; close them at the end."""
    async with AsyncClient(queue_settings) as client:
        connection = connect_async(queue_settings)
        try:
            admission = Admission(connection)
            yield Context(queue_settings, settings, files_settings, client, connection, admission, Readiness(client))
        finally:
            await connection.aclose()


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


#: a parameter of an endpoint
ContextDep = Annotated[Context, Depends(_context)]
