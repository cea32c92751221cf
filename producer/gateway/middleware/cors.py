"""Lets the pages of named origins call the gateway from a browser; by default none may."""

from __future__ import annotations

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from producer.gateway.http import headers

#: headers that a page's script may read
_EXPOSED = [
    *("Location", "Preference-Applied", "Retry-After", headers.REQUEST_ID, headers.JOB_ID),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
]

#: seconds for which a browser need not ask again
_MAX_AGE_S = 3600


def with_cors(app: ASGIApp, allowed: Collection[str]) -> ASGIApp:
    """Allow origins; * allows all. Keys travel in headers, so no cookies are allowed."""
    if not allowed:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(allowed),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=_MAX_AGE_S,
    )
