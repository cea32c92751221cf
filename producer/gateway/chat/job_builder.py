"""Builds the job of a chat request: checks its images and its fields. For threads; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from producer.client.submission import PreparedJob
from producer.gateway.chat.echo_models import refuse_structured
from producer.gateway.errors import InvalidRequest
from producer.gateway.http.body import parse_json
from producer.ids import is_owner
from producer.images.stored import PREFIX
from producer.openai.chat_messages import ResolveUrl
from producer.openai.chat_request import ChatRequest, parse_body
from vqa.errors import ImageMissing, InvalidJob
from vqa.images.data_url import from_data_url
from vqa.images.file import open_image
from vqa.images.store import reference
from vqa.images.stored_id import is_stored_id
from vqa.job import Job
from vqa.settings import QueueSettings

SHORTEST_TIMEOUT_S = 1

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,19}):")

#: the place of a field at the beginning of an InvalidJob's message
_PLACE = re.compile(r"([a-z_]+(?:\.[a-z_]+|\.\d+)*): ")

#: a job's fields by their names in a body
_BODY_NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    **{name: f"vqa.{name}" for name in ("lane", "timeout_s", "reuse")},
}


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A job that is ready to be submitted, and how its answer is wanted."""

    prepared: PreparedJob
    #: as the request names it
    model: str | None
    include_usage: bool = False
    webhook_url: str | None = None

    @property
    def id(self) -> str:
        return self.prepared.id

    @property
    def job(self) -> Job:
        return self.prepared.job

    @property
    def stream(self) -> bool:
        return self.prepared.stream


@dataclass(frozen=True, slots=True)
class JobBuilder:
    """Builds the job of one request. Methods raise InvalidRequest, BadImage or ImageMissing."""

    id: str
    tenant: str | None
    #: W3C traceparent
    trace: str | None
    settings: QueueSettings

    def from_json(self, body: bytes) -> ChatJob:
        """Build the job of a chat-completions body."""
        return self.from_document(parse_json(body))

    def from_document(self, document: Any) -> ChatJob:
        """Build the job of a chat-completions body that has been parsed."""
        try:
            return checked_timeout(self.from_request(parse_body(document, stored_or_inline(self.tenant))))
        except InvalidJob as error:
            raise as_invalid_request(error, _BODY_NAMES) from None

    def from_request(self, request: ChatRequest) -> ChatJob:
        """Build the job of a request whose images are data: URLs, ids of stored images, or bytes. Raises InvalidJob."""
        images: dict[str, bytes] = {}
        named = partial(self._name, {}, images)
        messages = [
            {**message, "content": [named(part) if part["type"] == "image" else part for part in message["content"]]}
            for message in request.fields["messages"]
        ]
        job = Job(**{**request.fields, "messages": messages, "id": self.id, "tenant": self.tenant})
        refuse_structured(request.model, job)
        prepared = PreparedJob(job, images, request.stream, self.trace)
        return ChatJob(prepared, request.model, request.include_usage, request.webhook_url)

    def _name(
        self, names: dict[str | bytes, str], images: dict[str, bytes], part: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return an image's part with the image's name; add the bytes to `images`."""
        source: str | bytes = part["image"]
        if isinstance(source, str) and is_stored_id(source):
            return part
        if source not in names:
            data = from_data_url(source) if isinstance(source, str) else source
            open_image(data, self.settings.image_max_bytes, self.settings.image_max_pixels)
            names[source] = reference(data)
            images[names[source]] = data
        return {**part, "image": names[source]}


def checked_timeout(chat: ChatJob) -> ChatJob:
    """Return the job. Raises InvalidJob for a deadline that a request cannot meet on its way."""
    if (timeout_s := chat.job.timeout_s) is not None and timeout_s < SHORTEST_TIMEOUT_S:
        raise InvalidJob(f"timeout_s: must be at least {SHORTEST_TIMEOUT_S} second")
    return chat


def stored_or_inline(tenant: str | None) -> ResolveUrl:
    """Return what reads image URLs of a caller: data: URLs, and ids of images that the tenant has stored.

    The raw references and file: URLs of `vqa submit` would reach others' images and the gateway's own files.
    """

    def resolve(url: str) -> str:
        if url[:5].lower() == "data:":
            return url
        if is_stored_id(url):
            if not is_owner(url, PREFIX, tenant):
                # as for an id that has expired, so that nobody learns which ids others have
                raise ImageMissing(f"image {url} is unknown or has expired; store it again")
            return url
        if found := _SCHEME.match(url):
            raise InvalidJob(
                f"{found[1].lower()}: URLs are not supported; send the image as a data: URL, "
                "or store it with POST /v1/images and name its id"
            )
        raise InvalidJob("an image URL is a data: URL, or a stored image's id, img_...")

    return resolve


def as_invalid_request(error: InvalidJob, names: Mapping[str, str]) -> InvalidRequest:
    """Return the error with the field at fault, under its name in the request."""
    message, found = str(error), _PLACE.match(str(error))
    if found is None or found[1] == "job":
        return InvalidRequest(message, code=error.code())
    first, *rest = found[1].split(".")
    place = ".".join([names.get(first, first), *rest])
    return InvalidRequest(f"{place}: {message[found.end() :]}", param=place, code=error.code())
