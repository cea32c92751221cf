"""Images, and files of pages or videos, as `data:` URLs (RFC 2397)."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from urllib.parse import unquote

from vqa.errors import BadImage

#: the type may be missing, or that of any bytes, and may have parameters (RFC 2397)
_DATA_URL = re.compile(
    r"data:((image|video)/[a-z0-9.+-]+|image|application/pdf|(application|binary)/octet-stream)?"
    r"(;[a-z0-9-]+=[^;,]*)*;base64,",
    re.IGNORECASE,
)

_URL_SAFE = str.maketrans("-_", "+/")


def from_data_url(url: str) -> bytes:
    """Return the bytes in a `data:image/...;base64,` URL (RFC 2397). Raises BadImage."""
    head = _DATA_URL.match(url)
    if not head:
        raise BadImage("the data: URL of an image must begin with data:image/TYPE;base64,")
    data = url[head.end() :]
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        with suppress(ValueError):
            return base64.b64decode(_plain_base64(data), validate=True)
    raise BadImage("the data: URL of an image is not valid base64")


def _plain_base64(text: str) -> str:
    """Undo what programs do to base64: line breaks, percent-encoding, the URL-safe alphabet, missing padding."""
    text = re.sub(r"[ \t]*[\r\n]+[ \t]*", "", unquote(text).strip()).translate(_URL_SAFE).rstrip("=")
    return text + "=" * (-len(text) % 4)


def to_data_url(data: bytes) -> str:
    """Return `data` as a `data:` URL without the image's type, which a reader finds in the bytes."""
    return "data:image/unknown;base64," + base64.b64encode(data).decode()
