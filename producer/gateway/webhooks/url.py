"""The URL of a webhook, checked when it is accepted. Its host is resolved and checked when an event is sent."""

from __future__ import annotations

from pydantic import HttpUrl, TypeAdapter, ValidationError

from producer.gateway.errors import InvalidRequest
from vqa.net.public import is_local_host

#: characters
_MAX_LENGTH = 2048

_HTTP_URL = TypeAdapter(HttpUrl)


def check_url(text: object, private: bool, param: str) -> str:
    """Return the URL in its normal form: hosts in ASCII, addresses as four numbers. Raises InvalidRequest.

    `private` allows http and private addresses.
    """
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        raise _refused(param, f"must be a URL of at most {_MAX_LENGTH:,} characters")
    try:
        url = _HTTP_URL.validate_python(text)
    except ValidationError:
        raise _refused(param, "must be an https URL") from None
    if url.scheme != "https" and not private:
        raise _refused(param, "must be an https URL (the gateway allows http only with VQA_GATEWAY_WEBHOOK_PRIVATE=1)")
    if url.username is not None or url.password is not None:
        raise _refused(param, "must not contain a user or a password; events are signed instead")
    if not private and is_local_host(url.host or ""):
        raise _refused(param, "its host has no public address")
    if len(normal := str(url).partition("#")[0]) > _MAX_LENGTH:
        raise _refused(param, f"must be a URL of at most {_MAX_LENGTH:,} characters")
    return normal


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param, code="invalid_webhook_url")
