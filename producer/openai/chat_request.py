"""OpenAI Batch: `{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}`, one object a line.

Of a body, what can be done is done and the rest is refused by name, so that no answer is other than asked for. `model`
and `user` are let pass and not sent: a worker has its own model. What is null is as if it were not there. Where there
is no temperature, answers are greedy, as everywhere here, and not drawn at 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from producer.images.locations import from_address
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

_ENDPOINT = "/v1/chat/completions"

#: fields of a body that are a job's, and what they are called there
_NAMES: Final[Mapping[str, str]] = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "response_format": "response_format",
    "metadata": "metadata",
}

#: fields that change nothing here
_LET_PASS = frozenset({"model", "user", "messages"})

#: fields that may have the one value that changes nothing
_ONLY: Final[Mapping[str, Any]] = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}

_ROLES: Final[Mapping[str, str]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def openai_fields(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A job's fields. Raises InvalidJob or BadImage."""
    if unknown := sorted(row.keys() - {"custom_id", "method", "url", "body"}):
        raise InvalidJob(f"{shown(unknown[0])}: no such field")
    if row.get("method") != "POST":
        raise InvalidJob("method: POST")
    if row.get("url") != _ENDPOINT:
        raise InvalidJob(f"url: {_ENDPOINT}")
    body = _object(row.get("body"), "body")
    fields = _of_a_job(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidJob("body.messages: a list, at least one")
    fields["messages"] = [_message(each, f"body.messages.{at}", folder) for at, each in enumerate(messages)]
    return fields


def _of_a_job(body: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if name in _ONLY:
            if value != _ONLY[name]:
                raise InvalidJob(f"body.{name}: nothing but {str(_ONLY[name]).lower()} is supported")
        elif name in _NAMES:
            if fields.setdefault(_NAMES[name], value) != value:
                raise InvalidJob("body: max_tokens and max_completion_tokens are not the same")
        elif name not in _LET_PASS:
            raise InvalidJob(f"body.{shown(name)}: not supported")
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    return fields


def _message(value: object, place: str, folder: str) -> dict[str, Any]:
    message = _object(value, place)
    _refuse_others(message, {"role", "content"}, place)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{place}.role: system, developer, user or assistant")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidJob(f"{place}.content: a string or a list of parts")
    parts = [_part(each, f"{place}.content.{at}", folder) for at, each in enumerate(content)]
    return {"role": _ROLES[role], "content": parts}


def _part(value: object, place: str, folder: str) -> dict[str, Any]:
    part = _object(value, place)
    kind = part.get("type")
    if kind == "text":
        _refuse_others(part, {"type", "text"}, place)
        return {"type": "text", "text": part.get("text")}
    if kind != "image_url":
        raise InvalidJob(f"{place}.type: text or image_url")
    _refuse_others(part, {"type", "image_url"}, place)
    place += ".image_url"
    image = _object(part.get("image_url"), place)
    _refuse_others(image, {"url", "detail"}, place)
    if not isinstance(url := image.get("url"), str):
        raise InvalidJob(f"{place}.url: a string")
    return {"type": "image", "image": from_address(url, folder)}


def _object(value: object, place: str) -> dict[str, Any]:
    """Its fields that are not null."""
    if not isinstance(value, dict):
        raise InvalidJob(f"{place}: an object")
    return {name: field for name, field in value.items() if field is not None}


def _refuse_others(fields: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(fields.keys() - known):
        raise InvalidJob(f"{place}.{shown(unknown[0])}: not supported")
