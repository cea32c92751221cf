"""Scales images to what the model will see, before they are stored: `--shrink`, and `Client(shrink=True)`.

The pixels are those that a worker's own decoding would give (`vqa.images.upright`, one resampling by the model's
filter). Images are decoded in the producer's own process: it is for a user's own images. A gateway never shrinks.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice

from PIL import Image
from PIL.ImageFile import ImageFile

from vqa.images.colour import as_rgb
from vqa.images.file import frame_count, open_image
from vqa.images.fit import Fit
from vqa.images.formats import format_of
from vqa.images.limits import FileLimits
from vqa.images.tiff import page_places
from vqa.images.upright import upright

#: formats that stay as they are: Pillow alone cannot read them
_LEFT = frozenset({"PDF", "HEIF"})

#: WebP's longest side
_WEBP_SIDE = 16_383


@dataclass(frozen=True, slots=True)
class Shrink:
    """How images are shrunk."""

    #: most tokens of an image whose `detail` is auto; None: as the workers that are up say
    tokens: int | None = None
    #: JPEG's, from 1 to 100; None: without loss, so that the model sees the same pixels
    quality: int | None = None

    @classmethod
    def parse(cls, shrink: Shrink | bool) -> Shrink | None:
        """Return how to shrink, with defaults for True; None for not at all."""
        return cls() if shrink is True else shrink or None

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range."""
        if self.tokens is not None and not 4 <= self.tokens <= 16_384:
            raise ValueError("tokens must be from 4 to 16384")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError("quality must be from 1 to 100")


def shrunk(data: bytes, fit: Fit, limits: FileLimits, quality: int | None = None) -> bytes:
    """Return the image at the size at which it will be seen; or `data` itself, if that is no larger or is no image.

    The result is upright, in sRGB, and without metadata, such as the place where a photo was taken. Files of several
    pages or frames, PDF and HEIC stay as they are.
    """
    try:
        image = _single(data, limits)
        if image is None:
            return data
        # to enlarge it is the worker's part; a turned image has as many pixels
        width, height = fit.size(*image.size)
        if width * height >= image.width * image.height:
            return data
        whole = upright(image)
        scaled = whole.resize(fit.size(*whole.size), Image.Resampling(fit.resample))
        encoded = _encode(as_rgb(scaled), quality)
    except Exception:
        # its worker says what is wrong; Pillow's readers raise all kinds of exceptions on damaged data
        return data
    return encoded if len(encoded) < len(data) else data


def _single(data: bytes, limits: FileLimits) -> ImageFile | None:
    """Return the file's only image, opened; None if it has several, or must be read by something else.

    Raises BadImage.
    """
    format = format_of(data)
    if format is None or format.name in _LEFT or frame_count(data) > 1:
        return None
    image = open_image(data, limits)
    if format.name == "TIFF":
        places = list(islice(page_places(data), 2))
        if len(places) != 1:
            return None
        image.seek(places[0])
        limits.check_size(*image.size)
    return image


def _encode(image: Image.Image, quality: int | None) -> bytes:
    file = io.BytesIO()
    if quality is not None:
        # 4:4:4: thin coloured lines and letters keep their colours
        image.save(file, "JPEG", quality=quality, subsampling=0)
    elif max(image.size) <= _WEBP_SIDE:
        # method 0: twice as fast as 1, and a seventh larger
        image.save(file, "WEBP", lossless=True, method=0)
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()
