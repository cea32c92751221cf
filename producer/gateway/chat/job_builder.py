"""Builds the job of a chat request: checks its images and its fields. For threads; no I/O.

A request whose images have to be fetched first is `Unfetched`, which `ChatHandler.ready` turns into its job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from producer.client.submission import PreparedJob
from producer.gateway.caller_images import CallerImages
from producer.gateway.chat.echo_models import refuse_structured
from producer.gateway.errors import InvalidRequest
from producer.gateway.http.body import parse_json
from producer.ids import is_owner
from producer.images.content import check_content
from producer.images.locations import checked_url
from producer.images.parts import Use, source_uses, with_sources
from producer.images.stored import PREFIX
from producer.openai.chat_request import ChatRequest, parse_body
from vqa.errors import ImageMissing, InvalidJob
from vqa.images.data_url import from_data_url
from vqa.images.store import reference
from vqa.images.stored_id import is_stored_id
from vqa.jobs.job import Job
from vqa.jobs.message import is_url
from vqa.settings import QueueSettings

SHORTEST_TIMEOUT_S = 1

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,19}):")

#: the place of a field at the beginning of an InvalidJob's message
_PLACE = re.compile(r"([a-z_]+(?:\.[a-z_]+|\.\d+)*): ")

#: a job's fields by their names in a body
_BODY_NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    **{name: f"vqa.{name}" for name in ("lane", "timeout_s", "reuse", "max_image_tokens", "shrink_images")},
}


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A job that is ready to be submitted, and how its answer is wanted."""

    prepared: PreparedJob
    #: as the request names it
    model: str | None
    include_usage: bool = False
    webhook_url: str | None = None
    #: where its images were fetched from, by their references
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.prepared.id

    @property
    def job(self) -> Job:
        return self.prepared.job

    @property
    def stream(self) -> bool:
        return self.prepared.stream

    def for_model(self, model: str | None) -> ChatJob:
        """Return the request for the workers of a model, if there is one."""
        if model is None:
            return self
        return replace(self, prepared=replace(self.prepared, job=self.job.for_model(model)))


@dataclass(frozen=True, slots=True)
class Unfetched:
    """A request that becomes a job once its images have been fetched."""

    request: ChatRequest
    #: URLs, and how each is shown
    urls: Mapping[str, Use]
    #: the job's fields by their names in the request
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class JobBuilder:
    """Builds the job of one request. Methods raise InvalidRequest, BadImage or ImageMissing."""

    id: str
    tenant: str | None
    #: W3C traceparent
    trace: str | None
    settings: QueueSettings
    images: CallerImages

    def from_json(self, body: bytes) -> ChatJob | Unfetched:
        """Build the job of a chat-completions body."""
        return self.from_document(parse_json(body))

    def from_document(self, document: Any) -> ChatJob | Unfetched:
        """Build the job of a chat-completions body that has been parsed."""
        return self.build(lambda: parse_body(document, self.resolve), _BODY_NAMES)

    def build(self, parse: Callable[[], ChatRequest], names: Mapping[str, str]) -> ChatJob | Unfetched:
        """Build the job of what `parse` returns; `names` are those of the job's fields in the request."""
        try:
            request = parse()
            if urls := self.urls(request):
                return Unfetched(request, urls, names)
            return checked_timeout(self.from_request(request, {}))
        except InvalidJob as error:
            raise as_invalid_request(error, names) from None

    def with_images(self, found: Unfetched, images: Mapping[str, bytes]) -> ChatJob:
        """Build the job of a request whose images, by URL, are there."""
        try:
            return checked_timeout(self.from_request(found.request, images))
        except InvalidJob as error:
            raise as_invalid_request(error, found.names) from None

    def resolve(self, url: str) -> str:
        """Return the source of an image URL of the caller. Raises InvalidJob, BadImage or ImageMissing."""
        return caller_source(url, self.tenant, self.images.check)

    def urls(self, request: ChatRequest) -> dict[str, Use]:
        """Return the URLs to fetch before the request becomes a job, and how each is shown."""
        uses = source_uses(request.fields["messages"])
        urls = (each for each in uses if isinstance(each, str) and _is_fetched(each))
        return {url: uses[url] for url in urls if not self.images.is_left(url)}

    def from_request(self, request: ChatRequest, fetched: Mapping[str, bytes]) -> ChatJob:
        """Build the job of a request whose images are there: data: URLs, stored, as bytes, or `fetched`.

        Raises InvalidJob.
        """
        messages = request.fields["messages"]
        names: dict[str | bytes, str] = {}
        images: dict[str, bytes] = {}
        for source, use in source_uses(messages).items():
            data = _content(source, fetched)
            if data is not None:
                check_content(data, self.settings, use)
                names[source] = reference(data)
                images[names[source]] = data
        fields = {**request.fields, "messages": with_sources(messages, names), "id": self.id, "tenant": self.tenant}
        job = Job(**fields)
        refuse_structured(request.model, job)
        prepared = PreparedJob(job, images, request.stream, self.trace)
        urls = {names[url]: url for url in fetched}
        return ChatJob(prepared, request.model, request.include_usage, request.webhook_url, urls)


def _is_fetched(source: str) -> bool:
    return is_url(source) or source[:5].lower() == "file:"


def _content(source: str | bytes, fetched: Mapping[str, bytes]) -> bytes | None:
    """Return the bytes at a source; None for one that stays in the job."""
    if isinstance(source, bytes):
        return source
    if source[:5].lower() == "data:":
        return from_data_url(source)
    return fetched.get(source)


def checked_timeout(chat: ChatJob) -> ChatJob:
    """Return the job. Raises InvalidJob for a deadline that a request cannot meet on its way."""
    if (timeout_s := chat.job.timeout_s) is not None and timeout_s < SHORTEST_TIMEOUT_S:
        raise InvalidJob(f"timeout_s: must be at least {SHORTEST_TIMEOUT_S} second")
    return chat


def caller_source(url: str, tenant: str | None, check: Callable[[str], None]) -> str:
    """Return the source of a caller's image URL: data:, an image that the tenant has stored, or one to fetch.

    `check` refuses URLs by raising BadImage. The raw references of `vqa submit` would reach others' images.
    """
    if url[:5].lower() == "data:":
        return url
    if is_stored_id(url):
        if not is_owner(url, PREFIX, tenant):
            # as for an id that has expired, so that nobody learns which ids others have
            raise ImageMissing(f"image {url} is unknown or has expired; store it again")
        return url
    if _is_fetched(url):
        check(checked_url(url))
        return url
    if found := _SCHEME.match(url):
        raise InvalidJob(
            f"{found[1].lower()}: URLs are not supported; send the image as a data: or https: URL, "
            "or store it with POST /v1/images and name its id"
        )
    raise InvalidJob("an image URL is a data: or https: URL, or a stored image's id, img_...")


def as_invalid_request(error: InvalidJob, names: Mapping[str, str]) -> InvalidRequest:
    """Return the error with the field at fault, under its name in the request."""
    message, found = str(error), _PLACE.match(str(error))
    if found is None or found[1] == "job":
        return InvalidRequest(message, code=error.code())
    first, *rest = found[1].split(".")
    place = ".".join([names.get(first, first), *rest])
    return InvalidRequest(f"{place}: {message[found.end() :]}", param=place, code=error.code())
