"""Lines of an OpenAI Batch file: `{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}`.

Body fields that cannot be honoured are refused by name, so that no answer differs from what was asked; values without
effect are accepted. `model` is accepted and ignored: a worker serves its own model. Null fields count as missing.
Without `temperature`, decoding is greedy, as everywhere in this project; OpenAI's default is 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from producer.images.locations import resolve_url
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

_ENDPOINT = "/v1/chat/completions"

#: without the version, as Azure writes it
_ENDPOINTS = (_ENDPOINT, "/chat/completions")

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

#: `messages` is read elsewhere; the others say nothing about the answer
_IGNORED = frozenset(
    {
        *("messages", "model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("service_tier", "parallel_tool_calls"),
    }
)

#: fields that may only have a value without effect; a message names the first
_FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "stream": (False,),
    "stream_options": ({},),
    "store": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}

#: fields of a message that an answer of OpenAI's has, and that may only be empty
_EMPTY_IN_MESSAGES = ("tool_calls", "annotations")

_ROLES: Final[Mapping[str, str]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def parse_request(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the fields of a job; relative file: URLs start from `folder`. Raises InvalidJob or BadImage."""
    if unknown := sorted(row.keys() - {"custom_id", "method", "url", "body"}):
        raise InvalidJob(f"{shown(unknown[0])}: unknown field")
    if row.get("method") != "POST":
        raise InvalidJob("method: must be POST")
    if row.get("url") not in _ENDPOINTS:
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
            if value not in _FIXED[name]:
                raise InvalidJob(f"body.{name}: only {json.dumps(_FIXED[name][0])} is supported")
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
    for name in _EMPTY_IN_MESSAGES:
        if message.get(name) == []:
            del message[name]
    _refuse_unknown(message, {"role", "content", "name"}, place)
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
