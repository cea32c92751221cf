"""Endpoints of batches, as OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.batches.batch_schema import BatchList, BatchObject
from producer.gateway.batches.request import BatchRequest
from producer.gateway.batches.service import BatchesDep, BatchService, Found
from producer.gateway.batches.view import batch_object
from producer.gateway.context import ContextDep
from producer.gateway.files.listing import page_object
from producer.gateway.openapi.error_schema import error_responses

router = APIRouter(tags=["batches"], dependencies=[BEARER])

#: of a request that makes a batch: 16 entries of metadata, and a URL
_BODY_BYTES = 2**16

IdempotencyKey = Annotated[
    str | None, Header(max_length=256, description="the same key with the same request makes one batch")
]


@router.post(
    "/v1/batches",
    response_model=BatchObject,
    max_body_size=_BODY_BYTES,
    responses=error_responses(400, 404, 408, 413, 422, 429),
)
async def create_batch(
    request: Request,
    body: BatchRequest,
    context: ContextDep,
    batches: BatchesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Have all requests of an uploaded file answered."""
    await context.admission.check_batch(caller, body.vqa.lane)
    return await _shown(batches, await batches.create(body, caller, request.state.trace, idempotency_key))


@router.get("/v1/batches", response_model=BatchList, responses=error_responses(400))
async def list_batches(
    batches: BatchesDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """List batches, the newest first."""
    found, more = await batches.newest(caller, after, limit)
    predictions = await batches.predict(found)
    return page_object([batch_object(*each, predictions.get(each[0].id)) for each in found], more)


@router.get("/v1/batches/{batch_id}", response_model=BatchObject, responses=error_responses(404))
async def retrieve_batch(batch_id: str, batches: BatchesDep, caller: CallerDep) -> dict[str, Any]:
    """Tell how far a batch is; its output file can be read before it is completed."""
    return await _shown(batches, await batches.get(batch_id, caller))


@router.post("/v1/batches/{batch_id}/cancel", response_model=BatchObject, responses=error_responses(404, 409))
async def cancel_batch(batch_id: str, batches: BatchesDep, caller: CallerDep) -> dict[str, Any]:
    """Cancel what has not ended; rows that are answered stay in the output file."""
    return await _shown(batches, await batches.cancel(batch_id, caller))


async def _shown(batches: BatchService, found: Found) -> dict[str, Any]:
    return batch_object(*found, (await batches.predict([found])).get(found[0].id))
