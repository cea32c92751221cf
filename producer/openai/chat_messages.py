"""Messages of a chat-completions body: `{"role", "content"}`, where a content is a text or a list of parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vqa.errors import InvalidJob
from vqa.frozen_model import shown

#: from the URL of an `image_url` part to the image's source; raises InvalidJob or BadImage
ResolveUrl = Callable[[str], str]

_ROLES: Final[Mapping[str, str]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

#: fields of a message that an answer of OpenAI's has, and that may only be empty
_EMPTY_IN_MESSAGES = ("tool_calls", "annotations")

#: what an answer has beside its content; clients send it back in the next turn, and no chat template reads it
_SENT_BACK = frozenset({"reasoning_content", "reasoning", "parsed"})

#: says which part of a prompt a server may cache; LiteLLM and OpenRouter pass it on from Anthropic's API
_CACHE_HINT = "cache_control"

#: the image's type, which the bytes tell: LiteLLM writes `format`, New API `mime_type` or `MimeType`
_IMAGE_TYPE = frozenset({"format", "mime_type", "MimeType"})

#: the size of the image that the model sees is the worker's setting, so that none of these changes it
_DETAILS = ("auto", "low", "high", "original", "")


def parse_messages(value: object, place: str, resolve: ResolveUrl) -> list[dict[str, Any]]:
    """Return the messages of a job, with the sources of images in place of their URLs. Raises InvalidJob, BadImage."""
    if not isinstance(value, list) or not value:
        raise InvalidJob(f"{place}: must be a non-empty list")
    return [_message(each, f"{place}.{index}", resolve) for index, each in enumerate(value)]


def _message(value: object, place: str, resolve: ResolveUrl) -> dict[str, Any]:
    message = as_object(value, place)
    for name in _EMPTY_IN_MESSAGES:
        if message.get(name) == []:
            del message[name]
    role, content = message.get("role"), message.get("content")
    known = {"role", "content", "name"}
    _refuse_unknown(message, known | _SENT_BACK if role == "assistant" else known, place)
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{place}.role: must be system, developer, user or assistant")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidJob(f"{place}.content: must be a string or a list of parts")
    parts = [_part(each, f"{place}.content.{index}", resolve) for index, each in enumerate(content)]
    return {"role": _ROLES[role], "content": parts}


def _part(value: object, place: str, resolve: ResolveUrl) -> dict[str, Any]:
    part = as_object(value, place)
    part.pop(_CACHE_HINT, None)
    kind = part.get("type")
    if kind == "text":
        _refuse_unknown(part, {"type", "text"}, place)
        return {"type": "text", "text": part.get("text")}
    if kind != "image_url":
        raise InvalidJob(f"{place}.type: must be text or image_url")
    _refuse_unknown(part, {"type", "image_url"}, place)
    return {"type": "image", "image": _image_source(part.get("image_url"), f"{place}.image_url", resolve)}


def _image_source(value: object, place: str, resolve: ResolveUrl) -> str:
    image = as_object(value, place)
    _refuse_unknown(image, {"url", "detail"} | _IMAGE_TYPE, place)
    if image.get("detail", "auto") not in _DETAILS:
        raise InvalidJob(f"{place}.detail: must be auto, low, high or original")
    if not isinstance(url := image.get("url"), str):
        raise InvalidJob(f"{place}.url: must be a string")
    return resolve(url)


def as_object(value: object, place: str) -> dict[str, Any]:
    """Return the object's non-null fields. Raises InvalidJob if `value` is not an object."""
    if not isinstance(value, dict):
        raise InvalidJob(f"{place}: must be an object")
    return {name: field for name, field in value.items() if field is not None}


def _refuse_unknown(fields: Mapping[str, Any], known: set[str] | frozenset[str], place: str) -> None:
    if unknown := sorted(fields.keys() - known):
        raise InvalidJob(f"{place}.{shown(unknown[0])}: not supported")
