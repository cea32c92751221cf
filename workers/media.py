"""Encoded bytes in, RGB pictures within limits out, decoded in a few threads of its own.

Knows nothing of Celery, of jobs or of the model; what it is told is how many pixels are of use. Pillow lets go of the
interpreter while it decodes and scales, so threads do run beside each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import cast

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from vqa.errors import BadImage, DeadlineExceeded, EngineError
from vqa.image import open_image

#: a longer picture is refused: Qwen's image processors take none
MAX_ASPECT_RATIO = 200

#: what is scaled down keeps so many pixels an axis for each that the model will see: the model's own image processor
#: does the last step, with its own filter, and so sees nearly what it would have made of the whole picture
_SPARE = 2

#: Pillow's modes of 16 and 32 bits a pixel; it would clip them at 255 where they ought to be scaled
_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})

#: modes whose pixels can be averaged as they are
_SCALABLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})


class Media:
    """Decodes pictures off the caller's thread; `close` when no more will come."""

    def __init__(self, threads: int, max_bytes: int, max_pixels: int, useful_pixels: int) -> None:
        """`max_*` are the limits over which a picture is refused, `useful_pixels` what the model sees of it at most."""
        self._limits = (max_bytes, max_pixels, useful_pixels)
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="media")

    def decode(self, images: Sequence[bytes], deadline: float = math.inf) -> list[Image.Image]:
        """The pictures, in order. Blocks; `deadline` is a point on `time.monotonic()`'s clock.

        Raises BadImage, DeadlineExceeded, and EngineError once closed.
        """
        try:
            pending = [self._pool.submit(self._decode, data) for data in images]
        except RuntimeError:
            raise EngineError("the worker is stopping") from None
        timeout_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        _, late = wait(pending, timeout_s, FIRST_EXCEPTION)
        try:
            _raise_first(pending)
            if late:
                raise DeadlineExceeded("the deadline passed before the pictures were decoded")
            return [picture.result() for picture in pending]
        finally:
            for picture in late:
                picture.cancel()

    def close(self) -> None:
        """Let go of the threads; what has not begun to be decoded fails with EngineError."""
        # a future that the pool itself cancels would never wake who waits for it
        self._closed = True
        self._pool.shutdown(wait=False)

    def _decode(self, data: bytes) -> Image.Image:
        if self._closed:
            raise EngineError("the worker is stopping")
        return decode(data, *self._limits)


def decode(data: bytes, max_bytes: int, max_pixels: int, useful_pixels: int) -> Image.Image:
    """The picture in `data`: upright, RGB, at most about four times `useful_pixels`. Raises BadImage or EngineError."""
    image = open_image(data, max_bytes, max_pixels)
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage(f"the picture is {width} x {height}; no side may be over {MAX_ASPECT_RATIO} times the other")
    try:
        return _pixels(image, useful_pixels)
    except MemoryError:
        raise EngineError("the machine's memory ran out while a picture was decoded") from None
    except Exception as error:
        # Pillow's readers raise whatever damaged data makes them stumble over; their words never hold a user's
        reason = " ".join(str(error).split())[:200]
        raise BadImage(f"the {image.format} picture cannot be decoded: {reason or type(error).__name__}") from None


def _pixels(image: ImageFile, useful_pixels: int) -> Image.Image:
    scale = math.sqrt(image.width * image.height / useful_pixels) / _SPARE
    small = (math.ceil(image.width / scale), math.ceil(image.height / scale))
    if scale > 1:
        # a JPEG is decoded at a half, a quarter or an eighth where that is still at least `small`
        image.draft(None, small)
    image.load()
    if scale > 1 and image.mode in _SCALABLE:
        # before the copies that changing the mode makes
        image.thumbnail(small, Image.Resampling.BILINEAR)
    flat = _opaque(image)
    if scale > 1 and image.mode not in _SCALABLE:
        flat.thumbnail(small, Image.Resampling.BILINEAR)
    # the mode's change has kept the orientation that the file's own header carries
    flat.info.setdefault("exif", image.info.get("exif", b""))
    ImageOps.exif_transpose(flat, in_place=True)
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


def _raise_first(pictures: Sequence[Future[Image.Image]]) -> None:
    for picture in pictures:
        if picture.done() and (error := picture.exception()):
            raise error
