"""Refuses forms that Starlette's parser would spend a minute on, or fail at."""

from __future__ import annotations

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from producer.gateway.errors import InvalidRequest

_CHARSETS = (b"", b"utf-8", b"utf8", b"us-ascii")


async def check_form(request: Request, max_fields: int) -> None:
    """Raise InvalidRequest for a form in another charset than UTF-8, or one of separators alone.

    Reads the body of a form that is not in parts.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    # a charset may be the name of any of Python's codecs
    if options.get(b"charset", b"").lower() not in _CHARSETS:
        raise InvalidRequest("the form's charset must be UTF-8")
    # the parser reads separators one by one, and counts only what is between them
    if kind == b"application/x-www-form-urlencoded" and (await request.body()).count(b"&") > max_fields:
        raise InvalidRequest(f"the form has more than {max_fields} fields")
