"""A chat-completions body as the fields of a job: of an HTTP request, or of a line of an OpenAI Batch file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from producer.images.locations import resolve_url
from producer.openai.chat_fields import job_fields, require_number
from producer.openai.media_parts import ResolveUrl, as_object
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

_ENDPOINT = "/v1/chat/completions"

#: without the version, as Azure writes it
_ENDPOINTS = (_ENDPOINT, "/chat/completions")

#: `include_obfuscation` pads OpenAI's chunks against eavesdroppers who measure them; TLS is the proxy's here
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})

#: fields under `vqa` in the body of an HTTP request: those of a job that OpenAI has no name for, and a webhook
_VQA_FIELDS = frozenset({"lane", "timeout_s", "reuse", "webhook", "max_image_tokens", "shrink_images"})

#: those of a line of a Batch file; a submission's options set the others
_VQA_ROW_FIELDS = frozenset({"max_image_tokens", "shrink_images"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a body asks for."""

    #: of a job, without id; `messages` have the parts of `producer.images.parts`
    fields: dict[str, Any]
    model: str | None = None
    stream: bool = False
    #: whether a stream ends with a chunk that has the usage
    include_usage: bool = False
    #: told when the job has ended; whether it may be is for the caller to check
    webhook_url: str | None = None


def parse_request(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the fields of a job; relative file: URLs start from `folder`. Raises InvalidJob or BadImage."""
    return parse_row(row, partial(resolve_url, folder=folder)).fields


def named_model(row: Mapping[str, Any]) -> str | None:
    """Return the model that a line of a Batch file names, if it is a text."""
    body = row.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) and model else None


def parse_row(row: Mapping[str, Any], resolve: ResolveUrl) -> ChatRequest:
    """Read a line of a Batch file: `{"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}`.

    Raises InvalidJob or BadImage.
    """
    if unknown := sorted(row.keys() - {"custom_id", "method", "url", "body"}):
        raise InvalidJob(f"{shown(unknown[0])}: unknown field")
    if row.get("method") != "POST":
        raise InvalidJob("method: must be POST")
    if row.get("url") not in _ENDPOINTS:
        raise InvalidJob(f"url: must be {_ENDPOINT}")
    body = as_object(row.get("body"), "body")
    model = body.get("model")
    own = _vqa_fields(body.pop("vqa", {}), "body.vqa", _VQA_ROW_FIELDS)
    return ChatRequest(job_fields(body, "body.", resolve) | own, model if isinstance(model, str) else None)


def parse_body(document: object, resolve: ResolveUrl) -> ChatRequest:
    """Read the body of an HTTP request, which may ask for a stream and has our own fields under `vqa`.

    Raises InvalidJob or BadImage.
    """
    body = as_object(document, "the body")
    if not isinstance(model := body.get("model", ""), str):
        raise InvalidJob("model: must be a string")
    stream = _flag(body.pop("stream", False), "stream")
    include_usage = _include_usage(body.pop("stream_options", {}))
    own = _vqa_fields(body.pop("vqa", {}), "vqa", _VQA_FIELDS)
    webhook_url = _webhook_url(own.pop("webhook", None))
    fields = job_fields(body, "", resolve) | own
    if stream and "logprobs" in fields:
        raise InvalidJob("logprobs: a stream carries the text alone; ask without stream")
    if stream and "n" in fields:
        raise InvalidJob("n: a stream has one answer; ask for several without stream, or several times")
    return ChatRequest(fields, model or None, stream, include_usage, webhook_url)


def _vqa_fields(value: object, place: str, known: frozenset[str]) -> dict[str, Any]:
    own = as_object(value, place)
    if unknown := sorted(own.keys() - known):
        raise InvalidJob(f"{place}.{shown(unknown[0])}: not supported; there are {', '.join(sorted(known))}")
    for name in ("timeout_s", "max_image_tokens"):
        if name in own:
            require_number(own[name], f"{place}.{name}")
    for name in ("reuse", "shrink_images"):
        if name in own:
            _flag(own[name], f"{place}.{name}")
    return own


def _webhook_url(value: object) -> str | None:
    if value is None:
        return None
    webhook = as_object(value, "vqa.webhook")
    if unknown := sorted(webhook.keys() - {"url"}):
        raise InvalidJob(f"vqa.webhook.{shown(unknown[0])}: not supported")
    if not isinstance(url := webhook.get("url"), str):
        raise InvalidJob("vqa.webhook.url: must be a string")
    return url


def _include_usage(value: object) -> bool:
    options = as_object(value, "stream_options")
    if unknown := sorted(options.keys() - _STREAM_OPTIONS):
        raise InvalidJob(f"stream_options.{shown(unknown[0])}: not supported")
    flags = {name: _flag(option, f"stream_options.{name}") for name, option in options.items()}
    return flags.get("include_usage", False)


def _flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidJob(f"{place}: must be true or false")
    return value
