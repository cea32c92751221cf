"""Image files, checked by their header without decoding pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from vqa.errors import BadImage
from vqa.images.boxes import check_boxes, check_parts
from vqa.images.formats import HEIF, NAMES, PDF, Format, format_of
from vqa.images.gif import check_start, gif_frames
from vqa.images.heif import heif_size
from vqa.images.jpeg import without_metadata
from vqa.images.kind import kind
from vqa.images.limits import FileLimits
from vqa.images.pages import choose_pages
from vqa.images.png import without_texts
from vqa.images.tiff import check_directory, page_places

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: formats whose files may be animations
_ANIMATIONS = frozenset({"PNG", "WEBP", "GIF", "AVIF"})


#: what is done before Pillow sees a file, as headers that are made for it take seconds or much memory; raise BadImage
_CHECKS: dict[str, Callable[[bytes], None]] = {
    "TIFF": check_directory,
    "GIF": check_start,
    "JPEG2000": check_boxes,
    "AVIF": check_parts,
    "HEIF": check_parts,
}
_SHORTENED: dict[str, Callable[[bytes], bytes]] = {"JPEG": without_metadata, "PNG": without_texts}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says."""

    #: as Pillow names it: JPEG, PNG, ..., or PDF
    format: str
    #: of the first image, in pixels; 0 for a PDF document
    width: int
    height: int


def read_header(
    data: bytes, limits: FileLimits | None = None, name: str = "", pages: tuple[int, int] | None = None
) -> Header:
    """Check a file as a producer does: no pixels are decoded, and HEIC and PDF need no extra.

    `pages` are the first and last that are asked for, from 1. Messages of errors start with `name`. Raises BadImage if
    it is no image in a supported format, or over the limits. Workers check it again, and the pages of a PDF document.
    """
    try:
        return _read_header(data, limits, pages)
    except BadImage as error:
        raise BadImage(f"{name}: {error}" if name else str(error)) from None


def open_image(data: bytes, limits: FileLimits) -> ImageFile:
    """Open the image in `data` without decoding its pixels. Raises BadImage, as `read_header` does."""
    limits.check_bytes(len(data))
    image = _open(data, _known(data))
    limits.check_size(*image.size)
    return image


def frame_count(data: bytes) -> int:
    """Return how many frames the animation in `data` has; 1 for other images and if it cannot be told.

    A model sees only the first, unless the file is shown as a video.
    """
    format = format_of(data)
    if format is None or format.name not in _ANIMATIONS:
        return 1
    if format.name == "GIF":
        return gif_frames(data)
    try:
        return int(getattr(_open(data, format), "n_frames", 1))
    except Exception:
        # what follows the first frame is damaged: Pillow's readers raise all kinds of exceptions
        return 1


def reason(error: Exception) -> str:
    """Return in one line what Pillow says is wrong with an image."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_header(data: bytes, limits: FileLimits | None, pages: tuple[int, int] | None) -> Header:
    if limits is not None:
        limits.check_bytes(len(data))
    format = _known(data)
    if format is PDF:
        if limits is not None:
            limits.check_pdf()
        return Header("PDF", 0, 0)
    width, height = heif_size(data) if format is HEIF else _open(data, format).size
    if limits is not None:
        limits.check_size(width, height)
        choose_pages(page_places(data) if format.name == "TIFF" else iter([0]), pages, limits.max_pages)
    return Header(format.name, width, height)


def _known(data: bytes) -> Format:
    if not data:
        raise BadImage("the file is empty: it has 0 bytes")
    format = format_of(data)
    if format is None:
        raise BadImage(f"not an image in one of the formats {NAMES}{kind(data)}")
    return format


def _open(data: bytes, format: Format) -> ImageFile:
    """Open an image with the reader of its format alone."""
    format.load()
    if check := _CHECKS.get(format.name):
        check(data)
    if shorten := _SHORTENED.get(format.name):
        data = shorten(data)
    try:
        return Image.open(io.BytesIO(data), formats=(format.name,))
    except UnidentifiedImageError:
        raise BadImage(f"the {format.name} image cannot be read{kind(data)}") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on a damaged header
        raise BadImage(f"the header of the {format.name} image cannot be read: {reason(error)}") from None
