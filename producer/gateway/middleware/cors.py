"""Lets the pages of named origins call the gateway from a browser; by default none may."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

#: what a page's script may read besides the body
_EXPOSED = [
    *("Location", "Preference-Applied", "Retry-After", "X-Request-ID"),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
]

#: seconds that a browser remembers that it may
_MAX_AGE_S = 3600


def with_cors(app: ASGIApp, origins: str) -> ASGIApp:
    """Allow origins, separated by commas; * allows all. Keys travel in headers, so no cookies are allowed."""
    allowed = [origin.strip().rstrip("/") for origin in origins.split(",") if origin.strip()]
    if not allowed:
        return app
    return CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=_MAX_AGE_S,
    )
