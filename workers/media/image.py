"""Decodes bytes to an upright RGB image within limits, at the size that the engine wants.

Knows nothing of Celery, jobs, processes or the model. Only Pillow is imported, so that a child process starts in a
tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from vqa.errors import BadImage, EngineError
from vqa.images.file import frame_count, open_image, reason
from vqa.images.fit import Fit
from vqa.images.orientation import orientation
from workers.media.colour import to_grey_or_rgb, to_srgb

#: Qwen's image processors refuse longer images
MAX_ASPECT_RATIO = 200

#: without a fit, an image keeps this many pixels per axis for each that the model sees; the engine's own filter then
#: gives nearly what it would give for the whole image
_OVERSAMPLING = 2

#: Pillow's peak: an image with transparency, and the copies on its way to RGB
_BYTES_PER_PIXEL = 32

#: the same without transparency, at 8 bits per channel; measured: 13. WebP's reader needs more
_PLAIN_BYTES_PER_PIXEL, _PLAIN_MODES = 16, frozenset({"1", "L", "P", "RGB"})

#: for Python, Pillow's code and the readers' own buffers
BASE_BYTES = 256 * 2**20

#: how to set an image upright, by its orientation in EXIF
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


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
        return BASE_BYTES + self.decoding_bytes

    @property
    def image_bytes(self) -> int:
        """The most that the pixels of a decoded image take."""
        return 3 * (self.fit.max_pixels if self.fit else self.useful_pixels * _OVERSAMPLING**2)

    @property
    def decoding_bytes(self) -> int:
        """The most that one image takes of them."""
        return 2 * self.max_bytes + _BYTES_PER_PIXEL * self.max_pixels


def needed_bytes(image: ImageFile, encoded_bytes: int) -> int:
    """Return the most memory that decoding an opened image takes, beside what every process needs."""
    plain = image.format != "WEBP" and image.mode in _PLAIN_MODES and "transparency" not in image.info
    return 2 * encoded_bytes + (_PLAIN_BYTES_PER_PIXEL if plain else _BYTES_PER_PIXEL) * image.width * image.height


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image at the size for the engine, and what its file holds."""

    image: Image.Image
    #: of the whole image, upright
    source_width: int
    source_height: int
    #: pages of a TIFF, frames of an animation; the image is the first
    frames: int = 1


def decode(data: bytes, limits: ImageLimits) -> Decoded:
    """Decode to an upright RGB image. Raises BadImage and EngineError.

    With a fit, the pixels are those that the model's own image processor would make of the whole image; without one,
    the image has at most about four times the useful pixels.
    """
    image = open_image(data, limits.max_bytes, limits.max_pixels)
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage(f"the image is {width} x {height}; no side may be over {MAX_ASPECT_RATIO} times the other")
    try:
        whole = _upright(image)
        scaled = to_srgb(_scale(whole, limits), image.info.get("icc_profile"))
    except MemoryError:
        raise EngineError("the machine ran out of memory while decoding an image") from None
    except Exception as error:
        # Pillow's readers raise all kinds of exceptions on damaged data
        raise BadImage(f"the {image.format} image cannot be decoded: {reason(error)}") from None
    return Decoded(scaled, *whole.size, frame_count(data))


def _upright(image: ImageFile) -> Image.Image:
    """Return the whole image, upright, in the mode in which it is scaled."""
    image.load()
    whole = to_grey_or_rgb(image)
    turn = _TURNS.get(orientation(image))
    return whole.transpose(turn) if turn is not None else whole


def _scale(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """Scale in one step: another filter before the model's own, or JPEG's, would blur what it sees."""
    if limits.fit is not None:
        size = limits.fit.size(image.width, image.height)
        return image.resize(size, Image.Resampling(limits.fit.resample))
    scale = math.sqrt(image.width * image.height / limits.useful_pixels) / _OVERSAMPLING
    if scale <= 1:
        return image
    # the filter that leaves the most for the one that follows: edges keep 1.00 of their energy, with bicubic 0.96
    return image.resize((math.ceil(image.width / scale), math.ceil(image.height / scale)), Image.Resampling.LANCZOS)
