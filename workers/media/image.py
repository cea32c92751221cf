"""Decodes bytes to an upright RGB image within limits, at the size that the engine wants.

Knows nothing of Celery, jobs, processes or the model. Only Pillow is imported, so that a child process starts in a
tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from PIL import Image, ImageOps
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from vqa.errors import BadImage, EngineError
from vqa.image import open_image
from workers.engine.image import Fit

#: Qwen's image processors refuse longer images
MAX_ASPECT_RATIO = 200

#: the first downscaling keeps this many pixels per axis for each that the model sees; the last step, with the model's
#: own filter, then gives nearly what it would give for the whole image
_OVERSAMPLING = 2

#: Pillow's modes of 16 and 32 bits per channel; Pillow would clip them at 255 instead of scaling them
_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})

#: modes whose pixels can be averaged without conversion
_SCALABLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})

#: Pillow's peak: an image with transparency, and the copies on its way to RGB
_BYTES_PER_PIXEL = 32

#: for Python, Pillow's code and the readers' own buffers
_BASE_BYTES = 256 * 2**20

#: EXIF orientations that swap width and height
_TRANSPOSED = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Which images are refused, and the size that the others are scaled to."""

    max_bytes: int
    max_pixels: int
    #: the most that the model sees of an image
    useful_pixels: int
    #: the exact size at which the model sees an image; if None, the engine's image processor resizes it
    fit: Fit | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Invert `dataclasses.asdict`."""
        fit = fields["fit"]
        return cls(**{**fields, "fit": fit and Fit(**fit)})

    @property
    def memory_bytes(self) -> int:
        """The most memory that a process needs to decode one image at a time."""
        return _BASE_BYTES + 2 * self.max_bytes + _BYTES_PER_PIXEL * self.max_pixels


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode to an upright RGB image. Raises BadImage and EngineError.

    With a fit, the image gets the size that the fit gives for the whole image; without one, it has at most about four
    times the useful pixels.
    """
    image = open_image(data, limits.max_bytes, limits.max_pixels)
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage(f"the image is {width} x {height}; no side may be over {MAX_ASPECT_RATIO} times the other")
    try:
        return _scale(image, limits)
    except MemoryError:
        raise EngineError("the machine ran out of memory while decoding an image") from None
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on damaged data; their messages never contain user data
        reason = " ".join(str(error).split())[:200]
        raise BadImage(f"the {image.format} image cannot be decoded: {reason or type(error).__name__}") from None


def _scale(image: ImageFile, limits: ImageLimits) -> Image.Image:
    width, height = image.size
    flat = _downscale(image, limits)
    # converting to RGB may drop the EXIF data, and the orientation with it
    flat.info.setdefault("exif", image.info.get("exif", b""))
    if flat.getexif().get(Base.Orientation) in _TRANSPOSED:
        width, height = height, width
    ImageOps.exif_transpose(flat, in_place=True)
    if limits.fit is None:
        return flat
    # from the whole image's size, so that the first downscaling does not change the number of tokens. The gap averages
    # squares of pixels first when scaling down by four or more
    return flat.resize(limits.fit.size(width, height), Image.Resampling.BICUBIC, reducing_gap=_OVERSAMPLING)


def _downscale(image: ImageFile, limits: ImageLimits) -> Image.Image:
    """Convert to RGB, scaled down if the image has far more pixels than the model sees."""
    useful_pixels = limits.fit.max_pixels if limits.fit else limits.useful_pixels
    scale = math.sqrt(image.width * image.height / useful_pixels) / _OVERSAMPLING
    small = (math.ceil(image.width / scale), math.ceil(image.height / scale))
    if scale > 1:
        # decodes a JPEG at a half, a quarter or an eighth if that is still at least `small`
        image.draft(None, small)
    image.load()
    if limits.fit and image.mode == "RGB" and not image.has_transparency_data:
        # there is nothing to convert, and the model's own filter costs less than a second one before it
        return image
    if scale > 1 and image.mode in _SCALABLE:
        # before converting the mode, which copies the image
        image.thumbnail(small, Image.Resampling.BILINEAR)
    flat = _to_rgb(image)
    if scale > 1 and image.mode not in _SCALABLE:
        flat.thumbnail(small, Image.Resampling.BILINEAR)
    return flat


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB: transparent pixels over white, deep ones scaled to 8 bits."""
    if image.mode in _DEEP:
        return _to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Convert to 8-bit grey from floating point in 0 to 1 or from 16 bits; values that fit in 8 bits are kept."""
    deep = image.convert("F")
    _, highest = cast(tuple[float, float], deep.getextrema())
    if image.mode in {"I", "F"} and highest <= 255:
        full = 1.0 if image.mode == "F" and highest <= 1 else 255.0
    else:
        full = 65535.0
    return deep.point(lambda value: value * (255 / full) + 0).convert("L")
