"""Turns every exception of an endpoint, and of FastAPI itself, into a response with OpenAI's error object.

A bug in the gateway is 500, with its traceback in the log and no detail in the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from producer.gateway.errors import error_response, openai_error, unexpected_error
from vqa.errors import VQAError

#: by the status of an HTTPException that FastAPI raises
_CODES: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_MESSAGES: Mapping[int, str] = {
    404: "no such endpoint; /openapi.json lists them",
    413: "the request's body is too large",
}

#: by pydantic's type of an error whose own message quotes the value, or makes sense only to readers of Python
_FIELD_MESSAGES: Mapping[str, str] = {
    "json_invalid": "the body is not valid JSON",
    "missing": "this field is required",
    "model_attributes_type": "the body must be a JSON object, sent with the content type application/json",
    "union_tag_invalid": "it has an unknown type",
}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

#: longest name of a field in a message; its keys may be the user's text
_MAX_PARAM = 100


def add_handlers(app: FastAPI) -> None:
    """Add a handler of each kind of exception."""
    app.add_exception_handler(VQAError, _on_vqa_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    # raised again after its response, and logged by `UnexpectedErrors`
    app.add_exception_handler(Exception, _on_unexpected_error)


async def _on_vqa_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VQAError)
    context = getattr(request.app.state, "context", None)
    return error_response(error, context.readiness.retry_after_s(error) if context else None)


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    return unexpected_error()


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = _CODES.get(status, "invalid_request" if status < 500 else "internal_error")
    message = _MESSAGES.get(status) or str(error.detail or HTTPStatus(status).phrase)
    headers = {"Allow": _allowed_methods(request)} if status == 405 else error.headers
    return JSONResponse({"error": openai_error(status, message, code)}, status, headers)


def _allowed_methods(request: Request) -> str:
    """Return the methods of all endpoints with the request's path; Starlette names those of the first one only."""

    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(is_allowed, _METHODS))


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = next(iter(error.errors()), {})
    param = _param(first.get("loc", ()))
    own_message = str(first.get("msg", "not valid")).removeprefix("Value error, ")
    message = f"{param or 'the request'}: {_FIELD_MESSAGES.get(first.get('type', ''), own_message)}"
    return JSONResponse({"error": openai_error(400, message, "invalid_request", param)}, 400)


def _param(loc: Sequence[str | int]) -> str | None:
    """Return the path of a field without its first part, which says whether it is in the body, query or header."""
    inner = loc[1:] if loc and loc[0] in ("body", "query", "header", "path") else loc
    # of invalid JSON, pydantic gives the number of a character in place of a field
    return None if inner and isinstance(inner[0], int) else ".".join(map(str, inner))[:_MAX_PARAM] or None
