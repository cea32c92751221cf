"""Lines of an OpenAI Batch file: `{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}`.

Body fields that cannot be honoured are refused by name, so that no answer differs from what was asked. `model` and
`user` are accepted and ignored: a worker serves its own model. Null fields count as missing. Without `temperature`,
decoding is greedy, as everywhere in this project; OpenAI's default is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from producer.images.locations import resolve_url
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

_ENDPOINT = "/v1/chat/completions"

#: names of a body's fields in a job
_JOB_FIELDS: Final[Mapping[str, str]] = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "response_format": "response_format",
    "metadata": "metadata",
}

_IGNORED = frozenset({"model", "user", "messages"})

#: fields that may only have the value without effect
_FIXED: Final[Mapping[str, Any]] = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}

_ROLES: Final[Mapping[str, str]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def parse_request(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the fields of a job; relative file: URLs start from `folder`. Raises InvalidJob or BadImage."""
    if unknown := sorted(row.keys() - {"custom_id", "method", "url", "body"}):
        raise InvalidJob(f"{shown(unknown[0])}: unknown field")
    if row.get("method") != "POST":
        raise InvalidJob("method: must be POST")
    if row.get("url") != _ENDPOINT:
        raise InvalidJob(f"url: must be {_ENDPOINT}")
    body = _object(row.get("body"), "body")
    fields = _job_fields(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidJob("body.messages: must be a non-empty list")
    fields["messages"] = [_message(each, f"body.messages.{index}", folder) for index, each in enumerate(messages)]
    return fields


def _job_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if name in _FIXED:
            if value != _FIXED[name]:
                raise InvalidJob(f"body.{name}: only {str(_FIXED[name]).lower()} is supported")
        elif name in _JOB_FIELDS:
            if fields.setdefault(_JOB_FIELDS[name], value) != value:
                raise InvalidJob("body: max_tokens and max_completion_tokens differ")
        elif name not in _IGNORED:
            raise InvalidJob(f"body.{shown(name)}: not supported")
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    return fields


def _message(value: object, place: str, folder: str) -> dict[str, Any]:
    message = _object(value, place)
    _refuse_unknown(message, {"role", "content"}, place)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidJob(f"{place}.role: must be system, developer, user or assistant")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidJob(f"{place}.content: must be a string or a list of parts")
    parts = [_part(each, f"{place}.content.{index}", folder) for index, each in enumerate(content)]
    return {"role": _ROLES[role], "content": parts}


def _part(value: object, place: str, folder: str) -> dict[str, Any]:
    part = _object(value, place)
    kind = part.get("type")
    if kind == "text":
        _refuse_unknown(part, {"type", "text"}, place)
        return {"type": "text", "text": part.get("text")}
    if kind != "image_url":
        raise InvalidJob(f"{place}.type: must be text or image_url")
    _refuse_unknown(part, {"type", "image_url"}, place)
    place += ".image_url"
    image = _object(part.get("image_url"), place)
    _refuse_unknown(image, {"url", "detail"}, place)
    if not isinstance(url := image.get("url"), str):
        raise InvalidJob(f"{place}.url: must be a string")
    return {"type": "image", "image": resolve_url(url, folder)}


def _object(value: object, place: str) -> dict[str, Any]:
    """Return the object's non-null fields. Raises InvalidJob if `value` is not an object."""
    if not isinstance(value, dict):
        raise InvalidJob(f"{place}: must be an object")
    return {name: field for name, field in value.items() if field is not None}


def _refuse_unknown(fields: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(fields.keys() - known):
        raise InvalidJob(f"{place}.{shown(unknown[0])}: not supported")
