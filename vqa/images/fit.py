"""The size to which a Qwen-VL model scales an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Fit:
    """The image sizes of a Qwen-VL model: sides are multiples of `factor`, the area is within limits."""

    factor: int
    min_pixels: int
    max_pixels: int
    #: the filter that scales the image, by Pillow's number: bicubic
    resample: int = 3

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to scale an image to; keep its aspect ratio as far as the multiples allow.

        Equals `smart_resize` in transformers' models/qwen2_vl/image_processing_qwen2_vl.py.
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

    def capped(self, max_pixels: int) -> Fit:
        """Return the sizes that have at most `max_pixels`, as of a processor with that limit."""
        most = min(self.max_pixels, max_pixels)
        return replace(self, max_pixels=most, min_pixels=min(self.min_pixels, most))

    def tokens(self, width: int, height: int) -> int:
        """Return how many tokens an image of this size, one of the fit's, becomes."""
        return (width // self.factor) * (height // self.factor)


def _down(side: float, factor: int) -> int:
    return math.floor(side / factor) * factor


def _up(side: float, factor: int) -> int:
    return math.ceil(side / factor) * factor
