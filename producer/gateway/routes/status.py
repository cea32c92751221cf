"""What the queue holds and who answers: for the page, and for dashboards that hold an API key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.context import Context, ContextDep
from producer.gateway.openapi.error_schema import error_responses
from vqa.jobs.lane import Lane
from vqa.ledger.records import WorkerInfo

router = APIRouter(dependencies=[BEARER], tags=["status"])

#: bytes of a body with one image that are not the image's
_AROUND_IMAGE = 64 * 1024


class LaneCounts(BaseModel):
    """Open jobs of a lane by state."""

    waiting: int = Field(description="accepted; their tenant's turn has not come")
    queued: int = Field(description="any worker may take them")
    leased: int = Field(description="a worker runs them")
    delayed: int = Field(description="they are tried again after a delay")


class WorkerStatus(BaseModel):
    """A worker that has renewed its leases within the lease time, which is 9 s by default."""

    name: str
    model: str | None
    engine: str | None
    slots: int = Field(description="jobs that it runs at the same time")
    answered_1m: int | None = Field(
        description="jobs answered within the last minute; at most a third of the lease time old. Null for workers of "
        "earlier releases"
    )


class ImageLimits(BaseModel):
    """The largest image that is accepted."""

    image_bytes: int
    image_pixels: int


class Status(BaseModel):
    object: Literal["vqa.status"] = "vqa.status"
    lanes: dict[Lane, LaneCounts]
    workers: list[WorkerStatus]
    limits: ImageLimits


@router.get("/v1/status", summary="Show the queue and its workers", responses=error_responses())
async def read_status(context: ContextDep, caller: CallerDep) -> Status:
    """Return the depth of the queue by lane, the workers with their recent rate, and the limits for images.

    Depths are those of all tenants together, as they decide how long an answer takes.
    """
    counts, workers = await context.client.counts(), await context.client.workers()
    lanes = {lane: LaneCounts(**states) for lane, states in counts.items()}
    return Status(lanes=lanes, workers=[_worker(each) for each in workers], limits=_limits(context))


def _worker(info: WorkerInfo) -> WorkerStatus:
    about = info.about
    return WorkerStatus(
        name=info.name,
        model=_text(about.get("model")),
        engine=_text(about.get("engine")),
        slots=_number(about.get("slots")) or 1,
        answered_1m=_number(about.get("answered_1m")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _limits(context: Context) -> ImageLimits:
    settings = context.queue_settings
    body_bytes = max(1, context.settings.body_max_bytes - _AROUND_IMAGE)
    return ImageLimits(image_bytes=min(settings.image_max_bytes, body_bytes), image_pixels=settings.image_max_pixels)
