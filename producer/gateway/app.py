"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from producer.gateway.context import open_context
from producer.gateway.routes import ask, batches, chat, files, health, images, jobs, models, page
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings

_ROUTES = (chat, ask, jobs, images, files, batches, models, health, page)


def create_app(
    queue_settings: QueueSettings | None = None,
    settings: GatewaySettings | None = None,
    files_settings: FilesSettings | None = None,
) -> FastAPI:
    """Return the application; settings come from the environment unless given. Raises SettingsError."""
    queue_settings = queue_settings or QueueSettings()
    settings = settings or GatewaySettings()
    files_settings = files_settings or FilesSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_context(queue_settings, settings, files_settings) as context:
            app.state.context = context
            yield

    app = FastAPI(title="vqa-queue", lifespan=lifespan)
    for module in _ROUTES:
        app.include_router(module.router)
    return app
