"""Image files, checked by their header without decoding pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from vqa.errors import BadImage
from vqa.images.kind import kind
from vqa.images.png import SIGNATURE, without_texts

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: formats that workers decode, by Pillow's names
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: how JPEG and BMP start: they are single images; the further ones of a phone's JPEG are previews and depth maps
_SINGLE = (b"\xff\xd8", b"BM")

#: bits of a TIFF page's NewSubfileType: a smaller copy of another page, or its mask
_NO_PAGE = 1 | 4


def open_image(data: bytes, max_bytes: int, max_pixels: int, name: str = "") -> ImageFile:
    """Open the image in `data` without decoding its pixels; messages of errors start with `name`.

    Raises BadImage if it is no image in a supported format, or has more bytes or pixels than allowed.
    """
    if len(data) > max_bytes:
        raise BadImage(
            f"{_of(name)}the image has {len(data):,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)"
        )
    image = open_header(data, name)
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
        image = open_header(data, "")
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


def open_header(data: bytes, name: str) -> ImageFile:
    """Open the image in `data`, whatever its size; messages of errors start with `name`. Raises BadImage."""
    if not data:
        raise BadImage(f"{_of(name)}the file is empty" if name else "the image is empty: it has 0 bytes")
    try:
        return Image.open(io.BytesIO(without_texts(data) if data.startswith(SIGNATURE) else data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(f"{_of(name)}not an image in one of the formats {', '.join(FORMATS)}{kind(data)}") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on a damaged header
        raise BadImage(f"{_of(name)}the image's header cannot be read: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Return in one line what Pillow says is wrong with an image."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _of(name: str) -> str:
    return f"{name}: " if name else ""
