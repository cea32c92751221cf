"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from producer.gateway.batches.service import open_batches
from producer.gateway.context import open_context
from producer.gateway.error_handlers import add_handlers
from producer.gateway.middleware.stack import outermost
from producer.gateway.openapi.document import complete, operation_id
from producer.gateway.routes import ask, batches, chat, files, health, images, jobs, models, page, reference, status
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.metrics.server import require_package
from vqa.settings import QueueSettings

_ROUTES = (chat, ask, jobs, images, files, batches, models, health, status, reference, page)


class GatewayApp(FastAPI):
    """FastAPI within middleware that sees all requests and errors, those of FastAPI's own middleware too."""

    def __init__(self, settings: GatewaySettings, **options: Any) -> None:
        self.settings = settings
        super().__init__(**options)
        #: whether the process is ending: /readyz says so
        self.state.stopping = False

    def openapi(self) -> dict[str, Any]:
        return self.openapi_schema or complete(super().openapi())

    def build_middleware_stack(self) -> ASGIApp:
        return outermost(super().build_middleware_stack(), self.settings)


def create_app(
    queue_settings: QueueSettings | None = None,
    settings: GatewaySettings | None = None,
    files_settings: FilesSettings | None = None,
) -> GatewayApp:
    """Return the application; settings come from the environment unless given. Raises SettingsError."""
    queue_settings = queue_settings or QueueSettings()
    settings = settings or GatewaySettings()
    files_settings = files_settings or FilesSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            open_context(queue_settings, settings, files_settings) as context,
            open_batches(context) as batches,
        ):
            app.state.context, app.state.batches = context, batches
            yield

    app = GatewayApp(
        settings,
        title="vqa-queue",
        version=version("vqa-queue"),
        lifespan=lifespan,
        max_body_size=settings.body_max_bytes,
        # to /v1/files from /v1/files/ by http, since TLS ends before this process: the key would follow in clear
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        # FastAPI's own spans and log records have paths, queries and exceptions in them
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        # FastAPI's pages load their scripts from elsewhere
        docs_url=None,
        redoc_url=None,
    )
    add_handlers(app)
    for module in _ROUTES:
        app.include_router(module.router)
    if settings.metrics_key is not None:
        require_package("VQA_GATEWAY_METRICS_KEY")
        # prometheus-client is an extra
        from producer.gateway.routes.metrics import metrics_router

        app.include_router(metrics_router(queue_settings, settings.metrics_key))
    return app
