"""The API's reference, for people."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from producer.gateway.openapi.reference import POLICY, render

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def show_reference(request: Request) -> HTMLResponse:
    """Show each endpoint with a command to try it."""
    # nginx ends TLS. A client that claims it changes nothing but the commands that it is shown itself
    secure = request.headers.get("x-forwarded-proto") == "https"
    base = request.base_url.replace(scheme="https") if secure else request.base_url
    page = render(request.app.openapi(), str(base).rstrip("/"))
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})
