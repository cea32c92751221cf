"""Endpoints of files, as OpenAI's: input files of batches are uploaded, their output and error files are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from producer.client.outage import redis_errors
from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.access.caller import Caller
from producer.gateway.context import Context, ContextDep
from producer.gateway.files.listing import Order
from producer.gateway.files.record import PREFIX, FileRecord
from producer.gateway.files.store import missing
from producer.gateway.files.upload import Upload
from producer.ids import is_owner, new_id, owner_tag

router = APIRouter(tags=["files"], dependencies=[BEARER])

#: of the body, of which `Upload` counts the bytes
_NO_LIMIT = 2**62

#: the body is read as it arrives, so that FastAPI cannot describe it
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}


@router.post("/v1/files", openapi_extra=_UPLOAD_BODY, max_body_size=_NO_LIMIT)
async def upload_file(request: Request, context: ContextDep, caller: CallerDep) -> dict[str, Any]:
    """Upload the input file of a batch: one request a line, as in OpenAI's Batch API."""
    upload = Upload(request.headers.get("content-type", ""), request.stream(), context.files_settings.max_bytes)
    with redis_errors(context.queue_settings):
        record = await context.files.receive(new_id(PREFIX, caller.tenant), upload)
    return record.to_object()


@router.get("/v1/files")
async def list_files(
    context: ContextDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """List files, the newest first unless `order` is asc."""
    with redis_errors(context.queue_settings):
        ids = context.files.ids(owner_tag(caller.tenant))
        records, more = await ids.collect(
            after, limit, order, context.files.records, lambda file: purpose in (None, file.purpose)
        )
    objects = [record.to_object() for record in records]
    ends = {"first_id": objects[0]["id"], "last_id": objects[-1]["id"]} if objects else {}
    return {"object": "list", "data": objects, "first_id": None, "last_id": None, **ends, "has_more": more}


@router.get("/v1/files/{file_id}")
async def retrieve_file(file_id: str, context: ContextDep, caller: CallerDep) -> dict[str, Any]:
    """Describe a file."""
    with redis_errors(context.queue_settings):
        return (await _owned(file_id, context, caller)).to_object()


@router.get(
    "/v1/files/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def read_file(file_id: str, context: ContextDep, caller: CallerDep) -> StreamingResponse:
    """Return a file's content."""
    with redis_errors(context.queue_settings):
        record = await _owned(file_id, context, caller)
        content = context.files.content(record)
        # the first piece, so that content that is gone is still a 404
        first = await anext(content, b"")
    headers = {"Content-Disposition": "attachment", "Content-Length": str(record.bytes)}
    return StreamingResponse(_after(first, content), media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, context: ContextDep, caller: CallerDep) -> dict[str, Any]:
    """Delete a file."""
    with redis_errors(context.queue_settings):
        await _owned(file_id, context, caller)
        await context.files.delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


async def _owned(id: str, context: Context, caller: Caller) -> FileRecord:
    if not is_owner(id, PREFIX, caller.tenant):
        raise missing(id)
    return await context.files.get(id)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
