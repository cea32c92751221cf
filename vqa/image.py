"""Encoded images: read from what a caller has, and checked by their header without decoding pixels."""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, UnidentifiedImageError

from vqa.errors import BadImage

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: formats that workers decode, by Pillow's names
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: Pillow's modes that PNG can store; other images (CMYK, LAB, F) are converted to RGB
_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def read_image(source: str | Path | bytes | BinaryIO | Image.Image) -> bytes:
    """Return the encoded bytes of `source`; a PIL image is encoded as PNG.

    Raises BadImage if the file cannot be read or the type is not supported.
    """
    match source:
        case bytes():
            return source
        case str() if re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE):
            raise BadImage("an image must be a file or bytes; URLs are not fetched")
        case str() | Path():
            try:
                return Path(source).read_bytes()
            except (OSError, ValueError) as error:
                # ValueError: not a possible file name, for example one with a null byte
                reason = getattr(error, "strerror", None) or error
                raise BadImage(f"cannot read the image {str(source)[:200]}: {reason}") from error
        case Image.Image():
            return _as_png(source)
        case _ if hasattr(source, "read"):
            return source.read()
    raise BadImage(f"an image must be a path, bytes, an open binary file or a PIL image, not {type(source).__name__}")


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    except (OSError, ValueError) as error:
        # a truncated or closed file that was opened lazily, or an image without pixels
        raise BadImage(f"the PIL image cannot be written as PNG ({type(error).__name__})") from None
    return buffer.getvalue()


def open_image(data: bytes, max_bytes: int, max_pixels: int) -> ImageFile:
    """Open the image in `data` without decoding its pixels.

    Raises BadImage if it is no image in a supported format, or has more bytes or pixels than allowed.
    """
    if len(data) > max_bytes:
        raise BadImage(f"the image has {len(data):,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on a damaged header
        raise BadImage(f"the image's header cannot be read ({type(error).__name__})") from None
    if image.width * image.height > max_pixels:
        raise BadImage(
            f"the image has {image.width} x {image.height} pixels; the limit is {max_pixels:,} (VQA_IMAGE_MAX_PIXELS)"
        )
    return image


def from_data_url(url: str) -> bytes:
    """Return the bytes in a `data:image/...;base64,` URL (RFC 2397). Raises BadImage."""
    head = _DATA_URL.match(url)
    if not head:
        raise BadImage("the data: URL of an image must begin with data:image/TYPE;base64,")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error:
        raise BadImage("the data: URL of an image is not valid base64") from None


def to_data_url(data: bytes) -> str:
    """Return `data` as a `data:` URL without the image's type, which a reader finds in the bytes."""
    return "data:image/unknown;base64," + base64.b64encode(data).decode()
