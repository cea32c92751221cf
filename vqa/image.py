"""Encoded images: read from what a caller has, and checked by their header without decoding pixels."""

from __future__ import annotations

import base64
import io
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from vqa.errors import BadImage
from vqa.pil_image import encode
from vqa.png import SIGNATURE, without_texts

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: formats that workers decode, by Pillow's names
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: how JPEG and BMP start: they are single images; the further ones of a phone's JPEG are previews and depth maps
_SINGLE = (b"\xff\xd8", b"BM")

#: bits of a TIFF page's NewSubfileType: a smaller copy of another page, or its mask
_NO_PAGE = 1 | 4

#: what other files are, by their first bytes
_KINDS = (
    (
        rb"\xff\xd8|\x89PNG|RIFF....WEBP|GIF8|BM|II\*|MM\0\*|II\+|MM\0\+",
        "damaged, or of a kind that Pillow cannot read",
    ),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC image"),
    (rb"....ftypavi", "an AVIF image"),
    (rb"....ftyp", "a video"),
    (rb"\0\0\0\x0cjP|\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"\xff\x0a|\0\0\0\x0cJXL", "a JPEG XL image"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\s*<", "a text such as SVG or HTML"),
)

#: the type may be missing, or that of any bytes, and may have parameters (RFC 2397)
_DATA_URL = re.compile(
    r"data:(image/[a-z0-9.+-]+|image|(application|binary)/octet-stream)?(;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE
)

_URL_SAFE = str.maketrans("-_", "+/")


def read_image(source: str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image) -> bytes:
    """Return the encoded bytes of `source`; of a PIL image the current frame is encoded.

    Raises BadImage if the file cannot be read or is no image, or if the type is not supported.
    """
    match source:
        case bytes():
            return source
        case bytearray() | memoryview():
            return bytes(source)
        case str() if re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE):
            raise BadImage("an image must be a file or bytes; URLs are not fetched")
        case str() | Path():
            name = str(source)[:200]
            try:
                data = Path(source).read_bytes()
            except (OSError, ValueError) as error:
                # ValueError: not a possible file name, for example one with a null byte
                raise BadImage(f"cannot read the image {name}: {getattr(error, 'strerror', None) or error}") from error
            return _checked(data, name)
        case Image.Image():
            return encode(source)
        case _ if hasattr(source, "read"):
            return _read_open(source)
    raise BadImage(f"an image must be a path, bytes, an open binary file or a PIL image, not {type(source).__name__}")


def _read_open(file: Any) -> bytes:
    """Read what is left of an open file, or all of it if nothing is left, as after writing it."""
    name = str(getattr(file, "name", "the open file"))[:200]
    if isinstance(file, io.TextIOBase):
        raise BadImage(f"{name} is open as text; open it with mode 'rb'")
    try:
        data = file.read()
        if not data and file.seekable() and file.tell():
            file.seek(0)
            data = file.read()
    except (OSError, ValueError) as error:
        # ValueError: it is closed
        raise BadImage(f"cannot read the image {name}: {getattr(error, 'strerror', None) or error}") from error
    return _checked(data, name)


def _checked(data: bytes, name: str) -> bytes:
    _open(data, name)
    return data


def open_image(data: bytes, max_bytes: int, max_pixels: int, name: str = "") -> ImageFile:
    """Open the image in `data` without decoding its pixels; messages of errors start with `name`.

    Raises BadImage if it is no image in a supported format, or has more bytes or pixels than allowed.
    """
    if len(data) > max_bytes:
        raise BadImage(
            f"{_of(name)}the image has {len(data):,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)"
        )
    image = _open(data, name)
    if image.width * image.height > max_pixels:
        raise BadImage(
            f"{_of(name)}the image has {image.width} x {image.height} pixels; the limit is {max_pixels:,} "
            "(VQA_IMAGE_MAX_PIXELS)"
        )
    return image


def frame_count(data: bytes) -> int:
    """Return how many pages (TIFF) or frames (GIF, WebP, PNG) the image in `data` has; 1 if it cannot be told.

    A model sees only the first. A TIFF page that is a smaller copy or a mask of another is not counted.
    """
    if data.startswith(_SINGLE):
        return 1
    try:
        image = _open(data, "")
        frames = int(getattr(image, "n_frames", 1))
        return _page_count(image, frames) if image.format == "TIFF" and frames > 1 else frames
    except Exception:
        # no image, or what follows the first frame is damaged: Pillow's readers raise all kinds of exceptions
        return 1


def _page_count(image: ImageFile, frames: int) -> int:
    pages = 0
    for frame in range(frames):
        image.seek(frame)
        pages += not int(image.tag_v2.get(Base.NewSubfileType, 0)) & _NO_PAGE  # type: ignore[attr-defined]
    return max(1, pages)


def _open(data: bytes, name: str) -> ImageFile:
    if not data:
        raise BadImage(f"{_of(name)}the file is empty" if name else "the image is empty: it has 0 bytes")
    try:
        return Image.open(io.BytesIO(without_texts(data) if data.startswith(SIGNATURE) else data), formats=FORMATS)
    except UnidentifiedImageError:
        kind = next((f" (it is {kind})" for start, kind in _KINDS if re.match(start, data, re.DOTALL)), "")
        raise BadImage(f"{_of(name)}not an image in one of the formats {', '.join(FORMATS)}{kind}") from None
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on a damaged header
        raise BadImage(f"{_of(name)}the image's header cannot be read ({type(error).__name__})") from None


def _of(name: str) -> str:
    return f"{name}: " if name else ""


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
