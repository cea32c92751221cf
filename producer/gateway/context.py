"""What all endpoints of one gateway process share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import redis.asyncio
from fastapi import Depends, Request

from producer.gateway.access.access import open_access
from producer.gateway.access.admission import Admission
from producer.gateway.access.key_ring import KeyRing
from producer.gateway.caller_images import CallerImages
from producer.gateway.client import GatewayClient
from producer.gateway.files.files import Files
from producer.gateway.readiness import Readiness
from producer.gateway.webhooks.webhooks import Webhooks, open_webhooks
from producer.images.reader import ImageReader
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.redis.connection import connect_async
from vqa.settings import QueueSettings


@dataclass(frozen=True)
class Context:
    """Settings and connections of one gateway process."""

    queue_settings: QueueSettings
    settings: GatewaySettings
    files_settings: FilesSettings
    client: GatewayClient
    #: for what is no job, such as files
    redis: redis.asyncio.Redis
    keys: KeyRing
    admission: Admission
    readiness: Readiness
    files: Files
    webhooks: Webhooks
    images: CallerImages


@asynccontextmanager
async def open_context(
    queue_settings: QueueSettings, settings: GatewaySettings, files_settings: FilesSettings
) -> AsyncIterator[Context]:
    """Open the connections; close them at the end."""
    async with (
        GatewayClient(queue_settings) as client,
        open_access(queue_settings, settings) as (keys, admission),
        Readiness(queue_settings).watching() as readiness,
        open_webhooks(client, settings) as webhooks,
    ):
        connection = connect_async(queue_settings)
        images = CallerImages(queue_settings, settings, ImageReader(queue_settings))
        try:
            files = Files(connection, files_settings)
            yield Context(
                queue_settings=queue_settings,
                settings=settings,
                files_settings=files_settings,
                client=client,
                redis=connection,
                keys=keys,
                admission=admission,
                readiness=readiness,
                files=files,
                webhooks=webhooks,
                images=images,
            )
        finally:
            await connection.aclose()
            await asyncio.to_thread(images.close)


# async, or FastAPI would call it in a thread
async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


#: a parameter of an endpoint
ContextDep = Annotated[Context, Depends(_context)]
