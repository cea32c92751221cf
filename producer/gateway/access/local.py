"""Requests without an API key, which a gateway on a loopback address takes from programs and pages of this machine.

A browser lets the pages of any web site send forms there, and read what comes back once their host's name resolves to
this machine (DNS rebinding). A proxy on this machine passes on what other machines send.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from producer.gateway.errors import Forbidden
from vqa.gateway_settings import GatewaySettings, is_loopback


def require_local(headers: Headers, settings: GatewaySettings) -> None:
    """Raise Forbidden if the request names another host, or a page of a site that is not allowed has sent it."""
    if settings.open:
        return
    if not _is_local(f"//{headers.get('host', 'localhost')}"):
        raise Forbidden(
            "without API keys this gateway answers as localhost only: create a key (`vqa keys create --name NAME`), or "
            "set VQA_GATEWAY_OPEN=1 to serve anybody",
            code="not_local",
        )
    origin = headers.get("origin")
    if not (origin is None or _is_local(origin) or settings.allowed_origins & {origin, "*"}):
        raise Forbidden(
            "without API keys this gateway answers no pages of other sites than VQA_GATEWAY_CORS_ORIGINS names",
            code="not_local",
        )


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
