"""One question about images, for curl and for forms."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.chat.ask_schema import AskAnswer, AskBody, form_schema
from producer.gateway.chat.form import FORMS, Form
from producer.gateway.chat.handler import ChatHandler
from producer.gateway.chat.request_schema import inlined_schema
from producer.gateway.context import ContextDep
from producer.gateway.routes.chat import ASKING, IdempotencyKey, Prefer
from vqa.answer import Answer

router = APIRouter(tags=["chat"], dependencies=[BEARER])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORMS[0]: {"schema": form_schema()},
            "application/json": {"schema": inlined_schema(AskBody)},
        },
    }
}

_TEXT = {"text/plain": {"schema": {"type": "string"}, "example": "red"}}


@router.post(
    "/v1/ask",
    response_model=AskAnswer,
    responses=ASKING | {200: ASKING[200] | {"content": _TEXT}},
    openapi_extra=_BODY,
    summary="Ask one question about images",
)
async def ask(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer a question about uploaded or stored images.

    `curl -F image=@cat.jpg -F question='What is on the mat?' -H 'Accept: text/plain' HOST/v1/ask` prints the answer.
    """
    handler = ChatHandler(request, context, caller, prefer, idempotency_key)
    # no variable holds the form while the answer is waited for
    builder = handler.builder()
    chat = await handler.ready(builder, await context.client.in_thread((await Form.read(request)).job, builder))
    accepted = request.headers.get("accept", "")
    return await handler.reply(chat, _render_text if _wants_text(accepted) else _render)


def _wants_text(accepted: str) -> bool:
    return "text/plain" in accepted and "application/json" not in accepted


def _render(answer: Answer) -> Response:
    return JSONResponse(AskAnswer.from_answer(answer).model_dump(mode="json"))


def _render_text(answer: Answer) -> Response:
    return PlainTextResponse(answer.text)
