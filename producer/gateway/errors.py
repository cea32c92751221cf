"""Errors and their HTTP responses, in the form that OpenAI's clients read: `{"error": {message, type, param, code}}`.

An expected failure is a VQAError, which has a status here; `error_handlers` deals with everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi.responses import JSONResponse

from vqa import errors
from vqa.errors import VQAError

#: by class; a subclass without a status of its own has that of its nearest base
_STATUS: Mapping[type[VQAError], int] = {
    VQAError: 500,
    errors.InvalidJob: 400,
    errors.ModelNotFound: 404,
    errors.BadImage: 400,
    errors.ImageMissing: 400,
    # it may be there when the request is sent again, as OpenAI's clients do
    errors.ImageUnavailable: 503,
    errors.PromptTooLong: 400,
    errors.AnswerTooLong: 400,
    errors.QuestionRefused: 400,
    # of a request that waits, or a batch's row: Redis has lost the job, and clients may send it again
    errors.UnknownJob: 500,
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

#: seconds of a Retry-After where nothing better is known
_DEFAULT_RETRY_S = 5.0


class RequestError(VQAError):
    """A request that the gateway itself refuses; subclasses set the status.

    `param` names the field at fault, `code` replaces that of the class, `retry_after_s` becomes the header Retry-After.
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
    """The request is not valid: its body is not JSON, or a field has a wrong value."""


class Unauthorized(RequestError):
    """The request has no API key, or one that is not valid."""

    status = 401


class Forbidden(RequestError):
    """The API key does not allow this."""

    status = 403


class NotFound(RequestError):
    """The object does not exist, or belongs to another tenant: a caller cannot tell the two apart."""

    status = 404


class RequestTimeout(RequestError):
    """The client did not send its request's body in time."""

    status = 408


class Conflict(RequestError):
    """The state of the object does not allow this."""

    status = 409


class BodyTooLarge(RequestError):
    """The request's body has more bytes than are allowed."""

    status = 413


class UnsupportedType(RequestError):
    """The endpoint does not read bodies of this content type."""

    status = 415


class KeyReused(RequestError):
    """The Idempotency-Key belongs to an earlier request with another body."""

    # not 409, which OpenAI's clients send again
    status = 422

    def __init__(self) -> None:
        message = "this Idempotency-Key belongs to an earlier request with another body"
        super().__init__(message, param="Idempotency-Key")


class ClientGone(RequestError):
    """The client closed its connection, so nobody reads the response. nginx logs the same status."""

    status = 499


class RateLimited(RequestError):
    """A limit of the API key is reached."""

    status = 429


class NoWorker(RequestError):
    """No worker is ready, so a request cannot wait for its answer."""

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
    message = "the queue does not answer; try again" if isinstance(error, errors.QueueUnavailable) else str(error)
    return openai_error(status_of(error), message, own_code or error.code(), param)


def error_response(error: VQAError, retry_after_s: float | None = None) -> JSONResponse:
    """Return the response; statuses 429 and 503 have Retry-After, from the error or as given, in whole seconds."""
    status, headers = status_of(error), {}
    if isinstance(error, RequestError):
        headers = error.headers
        retry_after_s = error.retry_after_s or retry_after_s
    if status in (429, 503):
        headers = {"Retry-After": str(max(1, math.ceil(retry_after_s or _DEFAULT_RETRY_S)))} | headers
    return JSONResponse({"error": error_object(error)}, status, headers)


def unexpected_error() -> JSONResponse:
    """Return the response to a request that failed through a bug in the gateway."""
    message = "the gateway failed on this request; its log names the cause under the request's id"
    return JSONResponse({"error": openai_error(500, message, "internal_error")}, 500)


def openai_error(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "type": kind, "param": param, "code": code}
