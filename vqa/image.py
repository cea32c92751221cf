"""An image on its way to a job: bytes from whatever a caller has, checked by header; no pixels are decoded here."""

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

#: Pillow's names of the formats that workers decode
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: Pillow's modes that PNG can hold; images of others (CMYK, LAB, F) are sent as RGB
_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def read_image(source: str | Path | bytes | BinaryIO | Image.Image) -> bytes:
    """The encoded bytes of `source`; a PIL image is written as PNG (lossless).

    Raises BadImage when the file cannot be read or the type is none of those.
    """
    match source:
        case bytes():
            return source
        case str() if re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE):
            raise BadImage("an image is given as a file or as bytes; addresses are not fetched")
        case str() | Path():
            try:
                return Path(source).read_bytes()
            except (OSError, ValueError) as error:
                # ValueError: a name that no file can have, such as one with a null byte
                reason = getattr(error, "strerror", None) or error
                raise BadImage(f"cannot read the image {str(source)[:200]}: {reason}") from error
        case Image.Image():
            return _as_png(source)
        case _ if hasattr(source, "read"):
            return source.read()
    raise BadImage(f"an image is a path, bytes, an open binary file or a PIL image, not {type(source).__name__}")


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    except (OSError, ValueError) as error:
        # an image that is opened lazily and cut short, closed, or without pixels
        raise BadImage(f"the PIL image cannot be written as PNG ({type(error).__name__})") from None
    return buffer.getvalue()


def open_image(data: bytes, max_bytes: int, max_pixels: int) -> ImageFile:
    """The image in `data`, its header read and within limits, its pixels not yet decoded.

    Raises BadImage for what is no image of a known format, or has more bytes or pixels than allowed.
    """
    if len(data) > max_bytes:
        raise BadImage(f"the image has {len(data):,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:
        # Pillow's readers raise whatever a damaged header makes them stumble over
        raise BadImage(f"the image's header cannot be read ({type(error).__name__})") from None
    if image.width * image.height > max_pixels:
        raise BadImage(
            f"the image has {image.width} x {image.height} pixels; the limit is {max_pixels:,} (VQA_IMAGE_MAX_PIXELS)"
        )
    return image


def from_data_url(url: str) -> bytes:
    """The bytes in a `data:image/...;base64,` URL (RFC 2397). Raises BadImage."""
    head = _DATA_URL.match(url)
    if not head:
        raise BadImage("a data URL for an image begins with data:image/TYPE;base64,")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error:
        raise BadImage("the image's data URL is not valid base64") from None


def to_data_url(data: bytes) -> str:
    """`data` as a `data:` URL; the type is left to the reader, who looks at the bytes."""
    return "data:image/unknown;base64," + base64.b64encode(data).decode()
