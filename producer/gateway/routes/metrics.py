"""The queue's metrics, for the operator's Prometheus alone."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from producer.gateway.errors import Unauthorized
from producer.metrics.collector import queue_registry
from vqa.settings import QueueSettings


def metrics_router(queue_settings: QueueSettings, key: str) -> APIRouter:
    """Return the route of /metrics, which asks for `key` as a bearer token.

    Not one of the API's keys: those are tenants', and the figures are of all tenants together.
    """
    router = APIRouter(include_in_schema=False)
    registry = queue_registry(queue_settings)

    # not async: FastAPI calls it in a thread, as it waits for Redis
    @router.get("/metrics")
    def read_metrics(authorization: Annotated[str, Header()] = "") -> Response:
        scheme, _, sent = authorization.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), key.encode()):
            raise Unauthorized("/metrics needs the key of VQA_GATEWAY_METRICS_KEY as a bearer token")
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
