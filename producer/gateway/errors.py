"""Errors as HTTP responses, in the shape that OpenAI's clients read: `{"error": {message, type, param, code}}`.

An expected failure is a VQAError and has a status here; anything else is 500, with one traceback in the log and no
detail to the client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from vqa import errors
from vqa.errors import VQAError

#: by class; a subclass without a status of its own has that of its nearest base
_STATUS: Mapping[type[VQAError], int] = {
    VQAError: 500,
    errors.InvalidJob: 400,
    errors.BadImage: 400,
    errors.ImageMissing: 400,
    errors.PromptTooLong: 400,
    errors.AnswerTooLong: 400,
    errors.UnknownJob: 404,
    errors.UnknownBatch: 404,
    errors.Cancelled: 409,
    errors.QueueFull: 429,
    errors.QueueUnavailable: 503,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
    errors.AnswerTimeout: 504,
}

#: OpenAI's `type`, by status; others below 500 are invalid_request_error, the rest server_error
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

#: of an HTTPException that FastAPI raises, by status
_CODES: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

#: seconds told where nothing better is known
DEFAULT_RETRY_S = 5.0


class RequestError(VQAError):
    """A request that the gateway itself refuses; subclasses have the status.

    `param` is the field at fault, `retry_after_s` becomes the header Retry-After.
    """

    status: ClassVar[int] = 400

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.own_code = code
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


class InvalidRequest(RequestError):
    """No valid request: a body that is no JSON, a field with a wrong value."""


class Unauthorized(RequestError):
    """No API key, or one that is not valid."""

    status = 401


class Forbidden(RequestError):
    """The API key does not allow this."""

    status = 403


class NotFound(RequestError):
    """What was asked for does not exist, or belongs to somebody else: a caller cannot tell the two apart."""

    status = 404


class RequestTimeout(RequestError):
    """The client did not send its request's body in time."""

    status = 408


class Conflict(RequestError):
    """The state of what was asked for does not allow this."""

    status = 409


class BodyTooLarge(RequestError):
    """The request's body has more bytes than are allowed."""

    status = 413


class RateLimited(RequestError):
    """A limit of the API key is reached."""

    status = 429


class NoWorker(RequestError):
    """No worker is ready, so that an answer cannot be waited for."""

    status = 503


class ShuttingDown(RequestError):
    """This gateway process is stopping."""

    status = 503


def status_of(error: VQAError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def error_object(error: VQAError) -> dict[str, Any]:
    """Return OpenAI's error object, for a response, an event of a stream or a row of a batch."""
    param = error.param if isinstance(error, RequestError) else None
    own_code = error.own_code if isinstance(error, RequestError) else None
    # the log says which host is away, and which setting names it
    said = "the queue does not answer; try again" if isinstance(error, errors.QueueUnavailable) else str(error)
    return _object(status_of(error), said, own_code or error.code(), param)


def error_response(error: VQAError, retry_after_s: float | None = None) -> JSONResponse:
    """Return the response; statuses 429 and 503 have Retry-After, from the error or as given, in whole seconds."""
    status, headers = status_of(error), {}
    if isinstance(error, RequestError):
        headers = error.headers
        retry_after_s = error.retry_after_s or retry_after_s
    if status in (429, 503):
        headers = {"Retry-After": str(max(1, math.ceil(retry_after_s or DEFAULT_RETRY_S)))} | headers
    return JSONResponse({"error": error_object(error)}, status, headers)


def unexpected_error() -> JSONResponse:
    """Return the response to a request that failed by a mistake of ours."""
    said = "the gateway failed on this request; its log names the cause under the request's id"
    return JSONResponse({"error": _object(500, said, "internal_error", None)}, 500)


def add_handlers(app: FastAPI) -> None:
    """Let the app answer every error in OpenAI's shape."""
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
    headers = {"Allow": _allowed(request)} if status == 405 else error.headers
    return JSONResponse({"error": _object(status, _said(status, error), code, None)}, status, headers)


def _allowed(request: Request) -> str:
    """Return all methods of the path; Starlette tells those of the first endpoint that has it."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(takes, _METHODS))


def _said(status: int, error: HTTPException) -> str:
    if status == 404:
        return "no such endpoint; /openapi.json lists them"
    if status == 413:
        return "the request's body is too large"
    return str(error.detail or HTTPStatus(status).phrase)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = next(iter(error.errors()), {})
    param = _param(first.get("loc", ()))
    kind, said = first.get("type", ""), str(first.get("msg", "not valid")).removeprefix("Value error, ")
    said = f"{param or 'the request'}: {_WORDS.get(kind, said)}"
    return JSONResponse({"error": _object(400, said, "invalid_request", param)}, 400)


#: in place of pydantic's messages that quote the value, or that only a reader of Python understands
_WORDS: Mapping[str, str] = {
    "json_invalid": "the body is not valid JSON",
    "missing": "this field is required",
    "model_attributes_type": "the body must be a JSON object, sent with the content type application/json",
    "union_tag_invalid": "it has an unknown type",
}

#: characters of a field's place that are told; keys in it may be the user's
_MAX_PARAM = 100


def _param(loc: Sequence[str | int]) -> str | None:
    """Return the place of a field without its first part, which says whether it is in the body, query or header."""
    inner = loc[1:] if loc and loc[0] in ("body", "query", "header", "path") else loc
    # the place of a mistake in JSON is a number of characters, and no field
    return None if inner and isinstance(inner[0], int) else ".".join(map(str, inner))[:_MAX_PARAM] or None


def _object(status: int, message: str, code: str, param: str | None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "type": kind, "param": param, "code": code}
