"""The API's reference, for people."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from producer.gateway.reference import POLICY, render

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def show_reference(request: Request) -> HTMLResponse:
    """Show each endpoint with a command to try it."""
    page = render(request.app.openapi(), str(request.base_url).rstrip("/"))
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})
