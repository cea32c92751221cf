"""Handles a chat request: its job's id, and the response in the form that it asks for. Shared by /v1/ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from producer.gateway.access.caller import Caller
from producer.gateway.chat.admitted_request import AdmittedRequest
from producer.gateway.chat.echo_models import TEST_MODELS
from producer.gateway.chat.event_stream import EventStream
from producer.gateway.chat.idempotency import id_of_key
from producer.gateway.chat.job_builder import ChatJob, JobBuilder, Unfetched
from producer.gateway.chat.job_object import PREFIX, JobObject, read_job
from producer.gateway.context import Context
from producer.gateway.errors import error_response
from producer.gateway.http import headers
from producer.gateway.http.connection import unless_gone
from producer.ids import new_id
from producer.openai.chat_chunks import ChatChunks
from vqa.answer import Answer
from vqa.errors import QueueUnavailable, VQAError

RenderAnswer = Callable[[Answer], Response]


class ChatHandler:
    """Handles one request; `prefer` and `idempotency_key` are its headers."""

    def __init__(
        self, request: Request, context: Context, caller: Caller, prefer: str | None, idempotency_key: str | None
    ) -> None:
        self._request = request
        self._context = context
        self._caller = caller
        self._key = (idempotency_key or "").strip()
        preferences = (prefer or "").replace(",", ";").split(";")
        self._responds_async = "respond-async" in (each.strip().lower() for each in preferences)

    def builder(self) -> JobBuilder:
        """Return the builder of the request's job."""
        tenant = self._caller.tenant
        id = id_of_key(PREFIX, tenant, self._key) if self._key else new_id(PREFIX, tenant)
        context = self._context
        return JobBuilder(id, tenant, self._request.state.trace, context.queue_settings, context.images)

    async def ready(self, builder: JobBuilder, found: ChatJob | Unfetched) -> ChatJob:
        """Return the request's job, once its images have been fetched if it names some by URL.

        Raises BadImage, ImageUnavailable, InvalidRequest or ClientGone.
        """
        if isinstance(found, ChatJob):
            return found
        timeout_s = self._context.images.timeout_s(found.request.fields)
        fetching = self._context.images.fetch(found.urls, self._caller.key_id, timeout_s)
        images = await unless_gone(self._request, fetching)
        return await self._context.client.in_thread(builder.with_images, found, images)

    async def reply(self, chat: ChatJob, render: RenderAnswer) -> Response:
        """Ask, and return the response as the request wants it: whole, streamed, or the job alone.

        Raises errors from before the job was accepted; later ones become the response.
        """
        # a stream cannot follow the preference, and need not
        waits = chat.stream or not self._responds_async
        admitted = await AdmittedRequest.admit(self._context, self._caller, chat, has_key=bool(self._key), waits=waits)
        # for the access log
        self._request.state.job_id = chat.id
        try:
            if not waits:
                response = await self._accepted(admitted)
            elif chat.stream:
                response = await self._streamed(admitted)
            else:
                response = render(await unless_gone(self._request, admitted.answer()))
        except VQAError as error:
            response = error_response(error, self._context.readiness.retry_after_s(error))
        response.headers[headers.JOB_ID] = chat.id
        return response

    async def _accepted(self, admitted: AdmittedRequest) -> Response:
        await admitted.submit()
        id = admitted.chat.id
        try:
            job = (await read_job(self._context, id)).job
        except QueueUnavailable:
            # accepted all the same: a client that reads an error would send it again
            job = JobObject(id=id, status="queued", lane=admitted.chat.job.lane)
        location = {"Location": f"/v1/jobs/{id}", "Preference-Applied": "respond-async"}
        return JSONResponse(job.model_dump(mode="json"), 202, location)

    async def _streamed(self, admitted: AdmittedRequest) -> Response:
        chat = admitted.chat
        stream = EventStream(admitted, ChatChunks(chat.id, await self._model(chat), chat.include_usage))
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
        if chat.job.model is not None:
            return chat.job.model
        workers = (await self._context.readiness.look()).workers
        about: Mapping[str, object] = workers[0].about if workers else {}
        return str(about.get("model") or chat.model or "")
