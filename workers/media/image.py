"""Encoded bytes in, an upright RGB image within limits out, at the size that the engine wants it.

Knows nothing of Celery, of jobs, of processes or of the model. Only Pillow is imported: a child process that does
nothing else starts in a tenth of a second.
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

#: a longer image is refused: Qwen's image processors take none
MAX_ASPECT_RATIO = 200

#: what is scaled down keeps so many pixels an axis for each that the model will see: the last step, with the model's
#: own filter, sees nearly what it would have made of the whole image
_SPARE = 2

#: Pillow's modes of 16 and 32 bits a pixel; it would clip them at 255 where they ought to be scaled
_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})

#: modes whose pixels can be averaged as they are
_SCALABLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})

#: what Pillow needs at its widest: an image with transparency, and the copies on its way to RGB
_BYTES_A_PIXEL = 32

#: for Python, Pillow's code, and what readers have beside pixels
_BYTES_BESIDE = 256 * 2**20

#: EXIF's orientations in which width and height change places
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused, and to what size the rest is scaled."""

    max_bytes: int
    max_pixels: int
    #: what the model sees of an image at most
    useful_pixels: int
    #: the model's own size for an image, which says it exactly; where None, the engine's image processor sees to it
    fit: Fit | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The limits that `dataclasses.asdict` has made these fields of."""
        fit = fields["fit"]
        return cls(**{**fields, "fit": fit and Fit(**fit)})

    @property
    def memory_bytes(self) -> int:
        """What a process that decodes one image at a time can need of memory."""
        return _BYTES_BESIDE + 2 * self.max_bytes + _BYTES_A_PIXEL * self.max_pixels


def decode(data: bytes, limits: Limits) -> Image.Image:
    """The image in `data`: upright, RGB. Raises BadImage or EngineError.

    With a fit, its size is what the fit says of the whole image; else at most about four times the useful pixels.
    """
    image = open_image(data, limits.max_bytes, limits.max_pixels)
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage(f"the image is {width} x {height}; no side may be over {MAX_ASPECT_RATIO} times the other")
    try:
        return _pixels(image, limits)
    except MemoryError:
        raise EngineError("the machine's memory ran out while an image was decoded") from None
    except Exception as error:
        # Pillow's readers raise whatever damaged data makes them stumble over; their words never hold a user's
        reason = " ".join(str(error).split())[:200]
        raise BadImage(f"the {image.format} image cannot be decoded: {reason or type(error).__name__}") from None


def _pixels(image: ImageFile, limits: Limits) -> Image.Image:
    width, height = image.size
    flat = _small(image, limits)
    # the mode's change has kept the orientation that the file's own header carries
    flat.info.setdefault("exif", image.info.get("exif", b""))
    if flat.getexif().get(Base.Orientation) in _ON_ITS_SIDE:
        width, height = height, width
    ImageOps.exif_transpose(flat, in_place=True)
    if limits.fit is None:
        return flat
    # by the whole image's size: that it was made smaller before must not change how many tokens it costs. The gap
    # averages squares of pixels first where it is scaled down by four and more
    return flat.resize(limits.fit.size(width, height), Image.Resampling.BICUBIC, reducing_gap=_SPARE)


def _small(image: ImageFile, limits: Limits) -> Image.Image:
    """The image in RGB, scaled down where it has far more pixels than are of use."""
    useful_pixels = limits.fit.most if limits.fit else limits.useful_pixels
    scale = math.sqrt(image.width * image.height / useful_pixels) / _SPARE
    small = (math.ceil(image.width / scale), math.ceil(image.height / scale))
    if scale > 1:
        # a JPEG is decoded at a half, a quarter or an eighth where that is still at least `small`
        image.draft(None, small)
    image.load()
    if limits.fit and image.mode == "RGB" and not image.has_transparency_data:
        # there is nothing to copy, and the model's own filter costs less than another one before it
        return image
    if scale > 1 and image.mode in _SCALABLE:
        # before the copies that changing the mode makes
        image.thumbnail(small, Image.Resampling.BILINEAR)
    flat = _opaque(image)
    if scale > 1 and image.mode not in _SCALABLE:
        flat.thumbnail(small, Image.Resampling.BILINEAR)
    return flat


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB: what is transparent over white, deep pixels scaled to 8 bits."""
    if image.mode in _DEEP:
        return _shallow(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _shallow(image: Image.Image) -> Image.Image:
    """Grey of 8 bits: floating point from 0 to 1, integers of 16 bits, or as they are where all fit in 8."""
    deep = image.convert("F")
    _, highest = cast(tuple[float, float], deep.getextrema())
    if image.mode in {"I", "F"} and highest <= 255:
        full = 1.0 if image.mode == "F" and highest <= 1 else 255.0
    else:
        full = 65535.0
    return deep.point(lambda value: value * (255 / full) + 0).convert("L")
