"""An image as engines take it: upright RGB pixels, and the size at which a model sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256

from PIL import Image


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class RGBImage:
    """Decoded pixels. Equal digests mean equal pixels."""

    width: int
    height: int
    #: RGB, row by row: height x width x 3 bytes
    pixels: bytes
    #: names the pixels, so that what was computed from them can be used again
    digest: str

    @classmethod
    def from_pil(cls, image: Image.Image) -> RGBImage:
        """The image that Pillow holds."""
        pixels = image.convert("RGB").tobytes()
        name = sha256(b"%d %d " % image.size)
        name.update(pixels)
        return cls(*image.size, pixels, name.hexdigest())

    @property
    def pil(self) -> Image.Image:
        """For Pillow; shares the pixels."""
        return Image.frombuffer("RGB", (self.width, self.height), self.pixels)


@dataclass(frozen=True, slots=True)
class Fit:
    """The sizes that a model of the Qwen-VL kind sees: sides that are multiples of `factor`, within limits of area."""

    factor: int
    #: pixels
    min_pixels: int
    max_pixels: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image of this size is scaled to, its shape kept as nearly as the multiples allow.

        `smart_resize` of transformers' models/qwen2_vl/image_processing_qwen2_vl.py.
        """
        factor = self.factor
        fitted_width, fitted_height = (round(side / factor) * factor for side in (width, height))
        area = fitted_width * fitted_height
        if area > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            return max(factor, _down(width / shrink, factor)), max(factor, _down(height / shrink, factor))
        if area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            return _up(width * grow, factor), _up(height * grow, factor)
        return fitted_width, fitted_height


def _down(side: float, factor: int) -> int:
    return math.floor(side / factor) * factor


def _up(side: float, factor: int) -> int:
    return math.ceil(side / factor) * factor
