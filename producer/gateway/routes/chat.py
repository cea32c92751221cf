"""OpenAI's chat completions, answered through the queue."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.chat.completion_schema import ChatCompletion
from producer.gateway.chat.handler import ChatHandler
from producer.gateway.chat.job_builder import ChatJob, JobBuilder, Unfetched
from producer.gateway.chat.job_object import JobObject
from producer.gateway.chat.request_schema import chat_schema
from producer.gateway.context import Context, ContextDep
from producer.gateway.http import headers
from producer.gateway.http.body import parse_json
from producer.gateway.http.connection import read_json_bytes
from producer.gateway.openapi.error_schema import error_responses
from producer.openai.chat_completion import chat_completion
from vqa.answer import Answer

#: of a body whose job is built in less than 2 ms
_SMALL_BYTES = 4096

router = APIRouter(tags=["chat"], dependencies=[BEARER])

_JOB_ID = {headers.JOB_ID: {"description": "the job's id", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "the job's address", "schema": {"type": "string"}}}

#: responses of an endpoint that asks; it adds its own content to 200
ASKING: dict[int | str, dict[str, Any]] = {
    200: {"headers": _JOB_ID},
    202: {
        "model": JobObject,
        "description": "Accepted; the header Location has the job's address",
        "headers": _JOB_ID | _LOCATION,
    },
    **error_responses(400, 404, 408, 409, 413, 415, 422, 429, 500, 504),
}

#: as FastAPI describes the streams that it makes itself
_STREAM = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "properties": {"data": {"type": "string", "description": "a chat.completion.chunk as JSON; last [DONE]"}},
            "required": ["data"],
        }
    }
}

_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": chat_schema()}}}}

Prefer = Annotated[str | None, Header(description="respond-async: answer 202 with the job at once")]
IdempotencyKey = Annotated[
    str | None, Header(max_length=256, description="a request that is sent again with its key does not run twice")
]


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=ASKING | {200: ASKING[200] | {"content": _STREAM}},
    openapi_extra=_BODY,
    summary="Ask about images",
)
async def create_chat_completion(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer a chat that may contain images, as OpenAI's API does, whole or as a stream.

    An image is a `data:` URL, the id of a stored image, or an `https:` URL of a host that the gateway allows; a video
    is a list of frames or a file. If the client leaves before the end, its job is cancelled, unless the request has an
    Idempotency-Key.
    """
    handler = ChatHandler(request, context, caller, prefer, idempotency_key)
    builder = handler.builder()
    # no variable holds the body while the answer is waited for
    chat = await handler.ready(builder, await _build(context, builder, await read_json_bytes(request)))
    return await handler.reply(chat, _render)


async def _build(context: Context, builder: JobBuilder, body: bytes) -> ChatJob | Unfetched:
    """Build the job in a thread, unless that takes less time than changing threads, as for most text questions."""
    document: Any = parse_json(body) if len(body) <= _SMALL_BYTES else None
    # a schema of a few bytes may take 100 ms to check
    if isinstance(document, dict) and "response_format" not in document:
        return builder.from_document(document)
    return await context.client.in_thread(builder.from_json, body)


def _render(answer: Answer) -> Response:
    return JSONResponse(chat_completion(answer))
