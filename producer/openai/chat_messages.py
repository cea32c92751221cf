"""Messages of a chat-completions body: `{"role", "content"}`, where a content is a text or a list of parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from producer.openai.media_parts import (
    ResolveUrl,
    as_object,
    image_part,
    refuse_unknown,
    video_part,
    video_url_part,
)
from vqa.errors import InvalidJob

_ROLES: Final[Mapping[str, str]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

#: fields of a message that an answer of OpenAI's has, and that may only be empty
_EMPTY_IN_MESSAGES = ("tool_calls", "annotations")

#: what an answer has beside its content; clients send it back in the next turn, and no chat template reads it
_SENT_BACK = frozenset({"reasoning_content", "reasoning", "parsed"})

#: says which part of a prompt a server may cache; LiteLLM and OpenRouter pass it on from Anthropic's API
_CACHE_HINT = "cache_control"


def parse_messages(
    value: object, place: str, resolve: ResolveUrl, videos: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the messages of a job, with the sources of images in place of their URLs; `videos` are defaults.

    Raises InvalidJob, BadImage.
    """
    if not isinstance(value, list) or not value:
        raise InvalidJob(f"{place}: must be a non-empty list")
    return [_message(each, f"{place}.{index}", resolve, videos or {}) for index, each in enumerate(value)]


def _message(value: object, place: str, resolve: ResolveUrl, videos: Mapping[str, Any]) -> dict[str, Any]:
    message = as_object(value, place)
    for name in _EMPTY_IN_MESSAGES:
        if message.get(name) == []:
            del message[name]
    role, content = message.get("role"), message.get("content")
    known = {"role", "content", "name"}
    refuse_unknown(message, known | _SENT_BACK if role == "assistant" else known, place)
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{place}.role: must be system, developer, user or assistant")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidJob(f"{place}.content: must be a string or a list of parts")
    parts = [_part(each, f"{place}.content.{index}", resolve, videos) for index, each in enumerate(content)]
    return {"role": _ROLES[role], "content": parts}


def _part(value: object, place: str, resolve: ResolveUrl, videos: Mapping[str, Any]) -> dict[str, Any]:
    part = as_object(value, place)
    part.pop(_CACHE_HINT, None)
    match part.get("type"):
        case "text":
            refuse_unknown(part, {"type", "text"}, place)
            return {"type": "text", "text": part.get("text")}
        case "image_url":
            refuse_unknown(part, {"type", "image_url"}, place)
            return image_part(part.get("image_url"), f"{place}.image_url", resolve)
        case "video_url":
            refuse_unknown(part, {"type", "video_url"}, place)
            return video_url_part(part.get("video_url"), f"{place}.video_url", resolve, videos)
        case "video":
            return video_part(part, place, resolve)
    raise InvalidJob(f"{place}.type: must be text, image_url, video_url or video")
