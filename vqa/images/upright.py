"""Decodes an image's pixels, upright: in a worker's child process, and where a producer shrinks its own images."""

from __future__ import annotations

from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from vqa.images.colour import to_grey_or_rgb, to_srgb
from vqa.images.orientation import orientation

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


def upright(image: ImageFile) -> Image.Image:
    """Return the whole image, upright, in sRGB, as grey (L) or RGB.

    Pillow's readers raise all kinds of exceptions on damaged data.
    """
    image.load()
    whole = to_srgb(to_grey_or_rgb(image), image.info.get("icc_profile"))
    turn = _TURNS.get(orientation(image))
    return whole.transpose(turn) if turn is not None else whole
