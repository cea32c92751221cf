"""Image files, checked by their header without decoding pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from vqa.errors import BadImage
from vqa.images.kind import kind
from vqa.images.png import SIGNATURE, without_texts

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: formats that workers decode, by Pillow's names
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

#: how JPEG and BMP start: they are single images; the further ones of a phone's JPEG are previews and depth maps
_SINGLE = (b"\xff\xd8", b"BM")


def open_image(data: bytes, max_bytes: int, max_pixels: int, name: str = "", max_aspect: int = 200) -> ImageFile:
    """Open the image in `data` without decoding its pixels; messages of errors start with `name`.

    Raises BadImage if it is no image in a supported format, or has more bytes or pixels than allowed, or if its longer
    side is over `max_aspect` times the shorter.
    """
    if len(data) > max_bytes:
        raise BadImage(
            f"{_of(name)}the image has {len(data):,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)"
        )
    image = open_header(data, name)
    check_size(*image.size, max_pixels, max_aspect, name)
    return image


def check_size(width: int, height: int, max_pixels: int, max_aspect: int, name: str = "") -> None:
    """Raise BadImage if an image of this size is not allowed."""
    if width * height > max_pixels:
        raise BadImage(
            f"{_of(name)}the image has {width} x {height} pixels; the limit is {max_pixels:,} (VQA_IMAGE_MAX_PIXELS)"
        )
    if max(width, height) > max_aspect * min(width, height):
        raise BadImage(
            f"{_of(name)}the image is {width} x {height}; no side may be over {max_aspect} times the other "
            "(VQA_IMAGE_MAX_ASPECT)"
        )


def frame_count(data: bytes) -> int:
    """Return how many frames the animation in `data` has; 1 for other images and if it cannot be told.

    A model sees only the first, unless the file is shown as a video.
    """
    if data.startswith(_SINGLE):
        return 1
    try:
        image = open_header(data, "")
        return 1 if image.format == "TIFF" else int(getattr(image, "n_frames", 1))
    except Exception:
        # no image, or what follows the first frame is damaged: Pillow's readers raise all kinds of exceptions
        return 1


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
