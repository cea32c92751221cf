"""Samples frames of animated GIF, WebP and PNG files.

How long each frame stands is read from the file's blocks: Pillow tells it only of a frame that it has decoded, and all
times are needed to choose frames evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from struct import unpack_from

from vqa.errors import BadImage, EngineError
from vqa.images.colour import as_rgb
from vqa.images.file import open_image, reason
from vqa.images.png import SIGNATURE
from vqa.images.upright import upright
from workers.media.image import Decoded
from workers.media.limits import BYTES_PER_PIXEL, ImageLimits
from workers.media.request import VideoSampling
from workers.media.sampling import MOST_DECODED_PIXELS, choose_frames, scale_frame

#: of a GIF frame that is shorter than the first, which browsers show for as long as the second says; seconds
_TOO_SHORT_S, _INSTEAD_S = 0.02, 0.1


class AnimationSource:
    """An animation, or an image of one frame."""

    def __init__(self, data: bytes, limits: ImageLimits, sampling: VideoSampling, max_pixels: int | None) -> None:
        """Read the times of all frames. Raises BadImage."""
        self._data = data
        self._image = image = open_image(data, limits.file)
        delays_s = list(_DELAYS.get(image.format or "", _of_no_animation)(data)) or [_INSTEAD_S]
        self._starts_s = list(accumulate(delays_s[:-1], initial=0.0))
        # an image that is shown where animations are not
        self._first = int(bool(image.info.get("default_image")))
        self._chosen = choose_frames(self._starts_s, sum(delays_s), sampling)
        self._fit = sampling.fit.for_frames(self.count, max_pixels)

    @property
    def count(self) -> int:
        return len(self._chosen)

    @property
    def pixels(self) -> int:
        """The pixels of all frames up to the last one that is shown: each is drawn over the ones before."""
        size = self._image.width * self._image.height
        return min(size * (self._chosen[-1] + 1), max(size, MOST_DECODED_PIXELS))

    @property
    def needed_bytes(self) -> int:
        """The most memory that decoding takes: several frames in full size, and all that are shown scaled."""
        whole = 2 * BYTES_PER_PIXEL * self._image.width * self._image.height
        return 2 * len(self._data) + whole + 3 * self._fit.max_pixels

    def images(self) -> Iterator[Decoded]:
        """Decode the frames that are shown, in order. Raises BadImage and EngineError."""
        image = self._image
        for number in self._chosen:
            try:
                image.seek(number + self._first)
                whole = upright(image)
                scaled = as_rgb(scale_frame(whole, self._fit))
            except MemoryError:
                raise EngineError("the machine ran out of memory while decoding a video") from None
            except Exception as error:
                # Pillow's readers raise all kinds of exceptions on damaged data
                raise BadImage(
                    f"frame {number + 1} of the {image.format} animation cannot be decoded: {reason(error)}"
                ) from None
            yield Decoded(scaled, *whole.size, len(self._starts_s), time_s=round(self._starts_s[number], 6))


def _of_no_animation(data: bytes) -> Iterator[float]:
    raise BadImage("the file is no video: it is an image of a format without animations")


def _gif_delays_s(data: bytes) -> Iterator[float]:
    """Yield how long each frame of a GIF stands (GIF89a, sections 18 to 25).

    Raises BadImage for a frame outside of the screen, which Pillow would enlarge after memory for it is planned.
    """
    at, delay_s = 13 + _table_bytes(data[10]), 0.0
    width, height = unpack_from("<2H", data, 6)
    frames = 0
    # the shortest block is one byte
    while at + 1 < len(data):
        if data[at] == 0x21:
            if data[at + 1] == 0xF9:
                delay_s = int.from_bytes(data[at + 4 : at + 6], "little") / 100
            at = _after_blocks(data, at + 2)
        elif data[at] == 0x2C and at + 10 < len(data):
            left, top, *size = unpack_from("<4H", data, at + 1)
            right, bottom = left + size[0], top + size[1]
            if not frames:
                # the first one is part of the size that is checked
                width, height = max(width, right), max(height, bottom)
            frames += 1
            if right > width or bottom > height:
                raise BadImage(f"frame {frames} of the GIF animation reaches beyond its screen of {width} x {height}")
            yield delay_s if delay_s >= _TOO_SHORT_S else _INSTEAD_S
            at, delay_s = _after_blocks(data, at + 11 + _table_bytes(data[at + 9])), 0.0
        else:
            return


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _webp_delays_s(data: bytes) -> Iterator[float]:
    """Yield how long each frame of a WebP stands (its container specification, ANMF)."""
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == b"ANMF":
            yield int.from_bytes(data[at + 20 : at + 23], "little") / 1000
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _png_delays_s(data: bytes) -> Iterator[float]:
    """Yield how long each frame of a PNG stands (PNG third edition, fcTL)."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"fcTL":
            hundredths = int.from_bytes(data[at + 30 : at + 32], "big") or 100
            yield int.from_bytes(data[at + 28 : at + 30], "big") / hundredths
        at += 12 + int.from_bytes(data[at : at + 4], "big")


_DELAYS: dict[str, Callable[[bytes], Iterator[float]]] = {
    "GIF": _gif_delays_s,
    "WEBP": _webp_delays_s,
    "PNG": _png_delays_s,
}
