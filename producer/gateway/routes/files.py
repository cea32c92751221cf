"""Endpoints of files, as OpenAI's: input files of batches are uploaded, their output and error files are read."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from producer.client.outage import redis_errors
from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.access.caller import Caller
from producer.gateway.batches.output_files import parse_output_file_id
from producer.gateway.batches.record import PREFIX as BATCH_PREFIX
from producer.gateway.batches.service import BatchesDep
from producer.gateway.context import ContextDep
from producer.gateway.files.download import Download
from producer.gateway.files.file_schema import DeletedFile, FileList, FileObject
from producer.gateway.files.listing import Order, page_object
from producer.gateway.files.record import PREFIX
from producer.gateway.files.store import missing
from producer.gateway.files.upload import Upload
from producer.gateway.http.connection import while_sending
from producer.gateway.openapi.error_schema import error_responses
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
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    response_model=FileObject,
    openapi_extra=_UPLOAD_BODY,
    max_body_size=_NO_LIMIT,
    responses=error_responses(400, 408, 413, 429),
)
async def upload_file(request: Request, context: ContextDep, caller: CallerDep) -> dict[str, Any]:
    """Upload the input file of a batch: one request a line, as in OpenAI's Batch API."""
    upload = Upload(request.headers.get("content-type", ""), request.stream(), context.files_settings.max_bytes)
    with redis_errors(context.queue_settings), while_sending("the file"):
        record = await context.files.receive(new_id(PREFIX, caller.tenant), upload)
    return record.to_object()


@router.get("/v1/files", response_model=FileList, responses=error_responses(400))
async def list_files(
    context: ContextDep,
    batches: BatchesDep,
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
            after, limit, order, batches.files.records, lambda file: purpose in (None, file.purpose)
        )
    return page_object([record.to_object() for record in records], more)


@router.get("/v1/files/{file_id}", response_model=FileObject, responses=error_responses(404))
async def retrieve_file(file_id: str, context: ContextDep, batches: BatchesDep, caller: CallerDep) -> dict[str, Any]:
    """Describe a file."""
    with redis_errors(context.queue_settings):
        _check_owner(file_id, caller)
        files = batches.files if parse_output_file_id(file_id) else context.files
        return (await files.get(file_id)).to_object()


@router.get(
    "/v1/files/{file_id}/content",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **error_responses(404),
    },
)
async def read_file(file_id: str, context: ContextDep, batches: BatchesDep, caller: CallerDep) -> StreamingResponse:
    """Return a file's content."""
    headers = {"Content-Disposition": "attachment"}
    with redis_errors(context.queue_settings):
        _check_owner(file_id, caller)
        if parse_output_file_id(file_id):
            content = await batches.files.content(file_id)
        else:
            record = await context.files.get(file_id)
            headers["Content-Length"] = str(record.bytes)
            content = context.files.content(record)
        # the first piece, so that content that is gone is still a 404
        first = await anext(content, b"")
    return Download(first, content, headers)


@router.delete("/v1/files/{file_id}", response_model=DeletedFile, responses=error_responses(404))
async def delete_file(file_id: str, context: ContextDep, batches: BatchesDep, caller: CallerDep) -> dict[str, Any]:
    """Delete a file."""
    with redis_errors(context.queue_settings):
        _check_owner(file_id, caller)
        await (batches.files if parse_output_file_id(file_id) else context.files).delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _check_owner(id: str, caller: Caller) -> None:
    batch = parse_output_file_id(id)
    if not (is_owner(batch[0], BATCH_PREFIX, caller.tenant) if batch else is_owner(id, PREFIX, caller.tenant)):
        raise missing(id)
