"""A chat-completions body as the fields of a job: of an HTTP request, or of a line of an OpenAI Batch file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from producer.images.locations import resolve_url
from producer.openai.chat_fields import job_fields
from producer.openai.chat_messages import ResolveUrl, as_object
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

_ENDPOINT = "/v1/chat/completions"

#: without the version, as Azure writes it
_ENDPOINTS = (_ENDPOINT, "/chat/completions")

#: `include_obfuscation` pads OpenAI's chunks against eavesdroppers who measure them; TLS is the proxy's here
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})

#: fields under `vqa` in the body of an HTTP request: those of a job that OpenAI has no name for
VQA_FIELDS = frozenset({"lane", "timeout_s", "reuse"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a body asks for."""

    #: of a job, without id; in `messages`, an image's part is {"type": "image", "image": SOURCE}
    fields: dict[str, Any]
    model: str | None = None
    stream: bool = False
    #: whether a stream ends with a chunk that has the usage
    include_usage: bool = False


def parse_request(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the fields of a job; relative file: URLs start from `folder`. Raises InvalidJob or BadImage."""
    return parse_row(row, partial(resolve_url, folder=folder)).fields


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
    return ChatRequest(job_fields(body, "body.", resolve), model if isinstance(model, str) else None)


def parse_body(document: object, resolve: ResolveUrl) -> ChatRequest:
    """Read the body of an HTTP request, which may ask for a stream and has our own fields under `vqa`.

    Raises InvalidJob or BadImage.
    """
    body = as_object(document, "the body")
    if not isinstance(model := body.get("model", ""), str):
        raise InvalidJob("model: must be a string")
    stream = _flag(body.pop("stream", False), "stream")
    include_usage = _include_usage(body.pop("stream_options", {}))
    own = as_object(body.pop("vqa", {}), "vqa")
    if unknown := sorted(own.keys() - VQA_FIELDS):
        raise InvalidJob(f"vqa.{shown(unknown[0])}: not supported; there are {', '.join(sorted(VQA_FIELDS))}")
    return ChatRequest(job_fields(body, "", resolve) | own, model or None, stream, include_usage)


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
