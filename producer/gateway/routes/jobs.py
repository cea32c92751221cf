"""Jobs of chat requests, by their ids."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request

from producer.client.outage import redis_errors
from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.chat.job_object import JobObject, check_owner, read_job
from producer.gateway.chat.tokens import text_tokens, used_tokens
from producer.gateway.context import Context, ContextDep
from producer.gateway.errors import Conflict
from producer.gateway.http.connection import unless_gone
from producer.gateway.openapi.error_schema import error_responses
from vqa.ledger.text_stream import Portion, stream_key

router = APIRouter(tags=["jobs"], dependencies=[BEARER])

#: seconds that a request may wait for a job's end
_LONGEST_WAIT_S = 60.0

_OPEN = ("queued", "running", "delayed")

JobId = Annotated[str, Path(description="the id of a chat completion", min_length=1, max_length=128)]
Wait = Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S, description="seconds to wait for the job's end")]


@router.get("/v1/jobs/{job_id}", summary="Tell where a job stands", responses=error_responses(400, 404))
async def retrieve_job(
    request: Request, context: ContextDep, caller: CallerDep, job_id: JobId, wait: Wait = 0
) -> JobObject:
    """Return the job's state, with its answer or error once it has ended; `wait` makes this a long poll."""
    check_owner(job_id, caller.tenant)
    found = await unless_gone(request, read_job(context, job_id, wait))
    if found.job.status not in _OPEN:
        # a request that did not wait left its reservation for this
        await context.admission.settle(caller, job_id, used_tokens(found.answer) if found.answer else 0)
    return found.job


@router.delete("/v1/jobs/{job_id}", summary="Cancel a job", responses=error_responses(400, 404, 409))
async def cancel_job(context: ContextDep, caller: CallerDep, job_id: JobId) -> JobObject:
    """Cancel an open job; its worker's slot is free one step later. A job that has ended is left as it is: 409."""
    check_owner(job_id, caller.tenant)
    # before its stream is gone with it
    shown = await _shown_tokens(context, job_id)
    cancelled = await context.client.cancel(job_id)
    found = await read_job(context, job_id)
    if not cancelled:
        raise Conflict(f"the job is over: {found.job.status}", code="job_over")
    await context.admission.settle(caller, job_id, shown)
    return found.job


async def _shown_tokens(context: Context, id: str) -> int:
    """Return an estimate of the tokens that a stream has shown of a job: they count, however the job ends."""
    with redis_errors(context.queue_settings):
        entries = cast(list[tuple[bytes, dict[bytes, bytes]]], await context.redis.xrange(stream_key(id)))
    portions = filter(None, (Portion.parse(fields) for _, fields in entries))
    return text_tokens(max((each.start + len(each.text) for each in portions), default=0))
