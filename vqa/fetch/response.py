"""Checks of a web server's response, by its status and headers. Messages quote nothing that the server has written."""

from __future__ import annotations

from collections.abc import Sequence

from vqa.errors import BadImage
from vqa.fetch.retry import Transient
from vqa.net.retry_after import retry_after_s

Headers = Sequence[tuple[bytes, bytes]]

_REDIRECTS = (301, 302, 303, 307, 308)

#: errors of the moment, beside those of the server (5xx): timeout, too early, too many requests
_TRANSIENT = (408, 425, 429)

_TYPES = ("image/", "video/", "application/pdf", "application/octet-stream", "binary/octet-stream")

#: what a link to a page, or an error's text, comes as; the only types that a message names
_TOLD = ("text/html", "text/plain", "application/json", "application/xml")


def header(headers: Headers, name: bytes) -> str:
    """Return the value of the first header of that name, in lower case, or nothing."""
    value = next((value for each, value in headers if each.lower() == name), b"")
    return value.decode("latin-1").strip()


def is_redirect(status: int) -> bool:
    return status in _REDIRECTS


def check_status(host: str, status: int, headers: Headers) -> None:
    """Raises BadImage, or Transient if another attempt may succeed."""
    if status == 200:
        return
    if status >= 500 or status in _TRANSIENT:
        raise Transient(f"{host}: the server answers with HTTP {status}", retry_after_s(headers))
    raise BadImage(f"{host}: the server answers with HTTP {status}")


def check_headers(host: str, headers: Headers, max_bytes: int) -> None:
    """Raises BadImage if the headers announce no image, or one with over `max_bytes`."""
    media_type = header(headers, b"content-type").partition(";")[0].strip().lower()
    if media_type and not media_type.startswith(_TYPES):
        told = f" but {media_type}" if media_type in _TOLD else ""
        raise BadImage(f"{host}: the server's response is no image, PDF document or video{told}")
    if header(headers, b"content-encoding").lower() not in ("", "identity"):
        # a small response might unpack to a huge one
        raise BadImage(f"{host}: the server compresses the image though it was asked not to (Content-Encoding)")
    length = header(headers, b"content-length")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise too_large(host, max_bytes)


def too_large(name: str, max_bytes: int) -> BadImage:
    return BadImage(f"{name}: the image has over {max_bytes:,} bytes; that is the limit (VQA_IMAGE_MAX_BYTES)")


def no_visual(name: str) -> BadImage:
    return BadImage(f"{name}: its content does not begin as an image, a PDF document or a video does")
