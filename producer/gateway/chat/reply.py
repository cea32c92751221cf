"""From a chat request to its HTTP response; shared by the endpoints that ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from producer.gateway.access.caller import Caller
from producer.gateway.chat.connection import unless_gone
from producer.gateway.chat.event_stream import EventStream
from producer.gateway.chat.exchange import Exchange
from producer.gateway.chat.idempotency import MAX_KEY, id_of_key
from producer.gateway.chat.job_builder import ChatJob, JobBuilder
from producer.gateway.chat.job_object import PREFIX, read_job
from producer.gateway.chat.test_models import TEST_MODELS
from producer.gateway.context import Context
from producer.gateway.errors import InvalidRequest, error_response
from producer.ids import new_id
from producer.openai.chat_chunks import ChatChunks
from vqa.answer import Answer
from vqa.errors import VQAError

JOB_ID_HEADER = "X-VQA-Job-ID"

RenderAnswer = Callable[[Answer], Response]


class Asking:
    """One request that asks something."""

    def __init__(self, request: Request, context: Context, caller: Caller) -> None:
        self._request = request
        self._context = context
        self._caller = caller
        self._key = _idempotency_key(request)
        preferences = request.headers.get("prefer", "").replace(",", ";").split(";")
        self._responds_async = "respond-async" in (each.strip().lower() for each in preferences)

    def builder(self) -> JobBuilder:
        """Return what builds the request's job."""
        tenant = self._caller.tenant
        id = id_of_key(PREFIX, tenant, self._key) if self._key else new_id(PREFIX, tenant)
        return JobBuilder(id, tenant, self._request.state.trace, self._context.queue_settings)

    async def reply(self, chat: ChatJob, render: RenderAnswer) -> Response:
        """Ask, and return the response as the request wants it: whole, streamed, or the job alone.

        Raises errors from before the job was accepted; later ones become the response.
        """
        # a preference, which a stream cannot follow
        waits = chat.stream or not self._responds_async
        exchange = await Exchange.admit(self._context, self._caller, chat, has_key=bool(self._key), waits=waits)
        # for the access log
        self._request.state.job_id = chat.id
        try:
            if not waits:
                response = await self._accepted(exchange)
            elif chat.stream:
                response = await self._streamed(exchange)
            else:
                response = render(await unless_gone(self._request, exchange.answer()))
        except VQAError as error:
            response = error_response(error, self._context.readiness.retry_after_s(error))
        response.headers[JOB_ID_HEADER] = chat.id
        return response

    async def _accepted(self, exchange: Exchange) -> Response:
        await exchange.submit()
        id = exchange.chat.id
        ended = await read_job(self._context, id)
        headers = {"Location": f"/v1/jobs/{id}", "Preference-Applied": "respond-async"}
        return JSONResponse(ended.job.model_dump(mode="json"), 202, headers)

    async def _streamed(self, exchange: Exchange) -> Response:
        chat = exchange.chat
        stream = EventStream(exchange, ChatChunks(chat.id, await self._model(chat), chat.include_usage))
        try:
            await unless_gone(self._request, stream.begin())
        except BaseException:
            await stream.close()
            raise
        return stream

    async def _model(self, chat: ChatJob) -> str:
        """Return the model that will answer, as far as it is known before."""
        if chat.model in TEST_MODELS:
            return chat.model
        workers = (await self._context.readiness.look()).workers
        about: Mapping[str, object] = workers[0].about if workers else {}
        return str(about.get("model") or chat.model or "")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key", "").strip()
    if len(key) > MAX_KEY:
        raise InvalidRequest(f"Idempotency-Key: at most {MAX_KEY} characters are allowed", param="Idempotency-Key")
    return key or None
