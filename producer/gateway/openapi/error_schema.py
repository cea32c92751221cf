"""The error object for the OpenAPI document; `producer.gateway.errors` builds it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ErrorObject(BaseModel):
    message: str
    type: Literal[
        "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
    ]
    param: str | None = Field(description="the field at fault")
    code: str | None = Field(examples=["invalid_job"])


class ErrorBody(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorObject


_DESCRIPTIONS = {
    400: "The request is not valid, or its job cannot be answered",
    401: "No API key, or one that is not valid",
    403: "The API key does not allow this, or the gateway has no keys and takes this machine's requests only",
    404: "It does not exist, or belongs to somebody else",
    408: "The body did not come in time",
    409: "Its state does not allow this",
    413: "The body is too large",
    415: "The body has another content type",
    422: "The Idempotency-Key belongs to another request",
    429: "A limit is reached, or the queue is full",
    500: "The job failed",
    503: "No worker is ready, or Redis does not answer",
    504: "The job's deadline has passed",
}

_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}


#: of every endpoint under /v1: `AccessGate` answers them
_ALWAYS = (401, 403, 503)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what an endpoint under /v1 passes to FastAPI as `responses`, given what only some endpoints answer."""
    return {
        status: {
            "model": ErrorBody,
            "description": _DESCRIPTIONS[status],
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in sorted({*statuses, *_ALWAYS})
    }
