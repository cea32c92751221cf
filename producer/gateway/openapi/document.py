"""Completes the OpenAPI document of FastAPI: removes what is not true here, and adds commands and links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute

from producer.gateway.openapi.curl_examples import CURL
from producer.gateway.openapi.links import LINKS

#: FastAPI's own error, in whose place there is OpenAI's error object with status 400
_NOT_USED = ("HTTPValidationError", "ValidationError")


def operation_id(route: APIRoute) -> str:
    """Return the name of the endpoint's function, which clients that are generated from the document use."""
    return route.name


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Change the document, and return it."""
    for method, path, operation in _operations(document):
        _drop_validation_error(operation["responses"])
        if command := CURL.get((method, path)):
            # the name that viewers know
            operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": command}]
        for status, links in LINKS.get(operation["operationId"], {}).items():
            operation["responses"][status]["links"] = links
    for name in _NOT_USED:
        document["components"]["schemas"].pop(name, None)
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _drop_validation_error(responses: dict[str, Any]) -> None:
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if content.get("schema", {}).get("$ref", "").endswith(f"/{_NOT_USED[0]}"):
        del responses["422"]
