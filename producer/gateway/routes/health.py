"""Whether this process lives, and whether jobs can be answered."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from producer.gateway.context import ContextDep

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready", "not ready"]
    reasons: list[str]
    workers: int


@router.get("/healthz", summary="Say that this process lives")
async def healthz() -> Alive:
    """Answer without looking at anything else: a process that does not answer should be restarted."""
    return Alive()


@router.get("/readyz", summary="Say whether jobs can be answered", responses={503: {"model": Ready}})
async def readyz(request: Request, response: Response, context: ContextDep) -> Ready:
    """Answer 200 if Redis answers and at least one worker is ready, else 503 with the reasons.

    A process that is stopping is not ready either.
    """
    look = await context.readiness.look()
    reasons = [*(["the gateway is stopping"] if request.app.state.stopping else []), *look.reasons]
    if reasons:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Ready(status="not ready" if reasons else "ready", reasons=reasons, workers=len(look.workers))
