"""One question about images, as a form or as a flat JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request

from producer.gateway.chat.job_builder import ChatJob, JobBuilder, Unfetched, as_invalid_request
from producer.gateway.errors import InvalidRequest, UnsupportedType
from producer.gateway.http.body import parse_json
from producer.gateway.http.connection import media_type, read_json_bytes, while_sending
from producer.gateway.http.forms import check_form
from producer.openai.chat_fields import require_number
from producer.openai.chat_request import ChatRequest
from producer.openai.media_parts import ResolveUrl, parse_detail
from vqa.errors import InvalidJob
from vqa.frozen_model import shown
from vqa.jobs.job import MOST_IMAGES

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

#: fields besides images, and bytes of one: a question has a million characters at most
_MOST_FIELDS, _MOST_BYTES = 100, 4 * 2**20

#: names of fields in a job
_JOB_FIELDS: Final[Mapping[str, str]] = {
    "max_tokens": "max_new_tokens",
    **{name: name for name in ("temperature", "top_p", "seed", "stop", "response_format")},
    **{name: name for name in ("lane", "timeout_s", "reuse", "max_image_tokens", "shrink_images")},
}

_FIELDS = frozenset({"image", "question", "system", "model", "detail", *_JOB_FIELDS})

_NUMBERS = frozenset({"max_tokens", "temperature", "top_p", "seed", "timeout_s", "max_image_tokens"})

_FLAGS = ("reuse", "shrink_images")

#: fields that may be given more than once
_LISTS = frozenset({"image", "stop"})


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a question; `image` is a list of file contents, URLs and ids of stored images."""

    fields: Mapping[str, Any]

    @classmethod
    async def read(cls, request: Request) -> Form:
        """Read the body. Raises UnsupportedType, InvalidRequest, ClientGone, and HTTPException for a damaged form."""
        kind = media_type(request)
        if kind == "application/json":
            return cls.from_json(await read_json_bytes(request))
        if kind not in FORMS:
            raise UnsupportedType(f"send a form as {FORMS[0]}, or JSON as application/json")
        with while_sending("the form"):
            return cls(await _read_form(request))

    @classmethod
    def from_json(cls, body: bytes) -> Form:
        """Read a JSON object. Raises InvalidRequest."""
        document = parse_json(body)
        if not isinstance(document, dict):
            raise InvalidRequest("the body must be a JSON object")
        fields = {name: value for name, value in document.items() if value is not None}
        images = fields.get("image", [])
        fields["image"] = images if isinstance(images, list) else [images]
        if not all(isinstance(image, str) for image in fields["image"]):
            raise InvalidRequest("image: must be a string or a list of strings", param="image")
        try:
            for name in _NUMBERS & fields.keys():
                require_number(fields[name], name)
        except InvalidJob as error:
            raise as_invalid_request(error, {}) from None
        return cls(fields)

    def job(self, builder: JobBuilder) -> ChatJob | Unfetched:
        """Build the job; for threads. Raises InvalidRequest, BadImage or ImageMissing."""
        return builder.build(lambda: self._request(builder.resolve), {"max_new_tokens": "max_tokens"})

    def _request(self, resolve: ResolveUrl) -> ChatRequest:
        fields = dict(self.fields)
        for name in _FLAGS:
            if not isinstance(fields.get(name, False), bool):
                raise InvalidJob(f"{name}: must be true or false")
        if unknown := sorted(fields.keys() - _FIELDS):
            raise InvalidJob(f"{shown(unknown[0])}: unknown field; there are {', '.join(sorted(_FIELDS))}")
        question, system, model = (_text(fields, name) for name in ("question", "system", "model"))
        if not question.strip():
            raise InvalidJob("question: it is missing or empty")
        if not fields.get("image"):
            raise InvalidJob("image: send a file, a URL or the id of a stored image")
        images = [resolve(image) if isinstance(image, str) else image for image in fields["image"]]
        parts = [{"type": "image", "image": image, **parse_detail(fields, "")} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        job = {_JOB_FIELDS[name]: value for name, value in fields.items() if name in _JOB_FIELDS}
        if isinstance(job.get("stop"), str):
            job["stop"] = [job["stop"]]
        return ChatRequest({**job, "messages": messages}, model or None)


def _text(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := fields.get(name, ""), str):
        raise InvalidJob(f"{name}: must be a string")
    return value


async def _read_form(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {"image": []}
    await check_form(request, _MOST_FIELDS)
    limits = {"max_files": MOST_IMAGES, "max_fields": _MOST_FIELDS, "max_part_size": _MOST_BYTES}
    async with request.form(**limits) as form:
        for name, value in form.multi_items():
            content = await _content(name, value)
            # a form in a page sends its empty fields, too
            if not content:
                continue
            if name in _LISTS:
                fields.setdefault(name, []).append(content)
            elif fields.setdefault(name, content) is not content:
                raise InvalidRequest(f"{shown(name)}: it is given twice", param=shown(name))
    # Starlette would hold its texts until the answer is sent
    request._form = None
    if "response_format" in fields:
        fields["response_format"] = parse_json(fields["response_format"].encode())
    for name in _FLAGS:
        if name in fields:
            # as written: pydantic would read yes, on and 1, too
            fields[name] = {"true": True, "false": False}.get(fields[name].lower(), fields[name])
    return fields


async def _content(name: str, value: UploadFile | str) -> bytes | str:
    if isinstance(value, str):
        return value
    if name != "image":
        raise InvalidRequest(f"{shown(name)}: must be text; only image is a file", param=shown(name))
    return await value.read()
