"""The order of the middleware."""

from __future__ import annotations

from starlette.types import ASGIApp

from producer.gateway.access.gate import AccessGate
from producer.gateway.middleware.access_log import AccessLog
from producer.gateway.middleware.body_deadline import BodyDeadline
from producer.gateway.middleware.cors import with_cors
from producer.gateway.middleware.request_id import RequestId
from producer.gateway.middleware.security_headers import SecurityHeaders
from producer.gateway.middleware.unexpected import UnexpectedErrors
from vqa.gateway_settings import GatewaySettings


def outermost(app: ASGIApp, settings: GatewaySettings) -> ASGIApp:
    """Wrap the whole application; the last one here sees a request first."""
    app = BodyDeadline(app)
    app = AccessGate(app)
    app = UnexpectedErrors(app)
    app = with_cors(app, settings.allowed_origins)
    app = SecurityHeaders(app)
    app = AccessLog(app)
    return RequestId(app)
