"""Decodes bytes to an upright RGB image within limits, at the size that the engine wants.

Knows nothing of Celery, jobs, processes or the model. Only Pillow is imported, so that a child process starts in a
tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from vqa.errors import BadImage, EngineError
from vqa.images.colour import as_rgb
from vqa.images.file import frame_count, open_image, reason
from vqa.images.pages import choose_pages
from vqa.images.tiff import page_places
from vqa.images.upright import upright
from workers.media.limits import BYTES_PER_PIXEL, OVERSAMPLING, ImageLimits
from workers.media.readers import prepare_reader
from workers.media.request import ImageRequest

#: of an image without transparency and with 8 bits per channel; measured: 13
_PLAIN_BYTES_PER_PIXEL, _PLAIN_MODES = 16, frozenset({"1", "L", "P", "RGB"})

#: formats whose readers need more
_GREEDY = frozenset({"WEBP", "JPEG2000"})

#: an honest JPEG 2000 image takes 0.28 s of computing time a megapixel, which is more than the limit for others
_COSTS = {"JPEG2000": 6}


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image at the size for the engine, and what its file holds."""

    image: Image.Image
    #: of the whole image, upright
    source_width: int
    source_height: int
    #: frames of an animation, of which the image is the first
    frames: int = 1
    #: number of the image among the file's pages, from 1
    page: int = 1
    #: in the file
    pages: int = 1
    #: in a video, from its start
    time_s: float | None = None


class ImageSource:
    """An image file, or the pages of a TIFF file."""

    def __init__(self, data: bytes, limits: ImageLimits, request: ImageRequest) -> None:
        """Read the headers of all pages. Raises BadImage."""
        self._data, self._limits = data, limits
        prepare_reader(data)
        self._image = open_image(data, limits.file)
        try:
            found = page_places(data) if self._image.format == "TIFF" else iter([0])
            self._pages = choose_pages(found, request.pages, limits.max_pages)
            self._total = self._pages[-1][0] + sum(1 for _ in found)
            self._sizes = [self._open(place) for _, place in self._pages]
        except (BadImage, MemoryError):
            raise
        except Exception as error:
            # Pillow's readers raise all kinds of exceptions on damaged data
            raise BadImage(f"the {self._image.format} image cannot be decoded: {reason(error)}") from None

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self._pages)

    @property
    def pixels(self) -> int:
        """The pixels of all images in the file, more where they are dear."""
        return _COSTS.get(self._image.format or "", 1) * sum(width * height for _, width, height in self._sizes)

    @property
    def needed_bytes(self) -> int:
        """The most memory that decoding takes, beside what every process needs."""
        largest = max(per_pixel * width * height for per_pixel, width, height in self._sizes)
        return 2 * len(self._data) + largest + (self.count - 1) * self._limits.image_bytes

    def images(self) -> Iterator[Decoded]:
        """Decode the images one after another. Raises BadImage and EngineError.

        With a fit, the pixels are those that the model's own image processor would make of the whole image; without
        one, an image has at most about four times the useful pixels.
        """
        frames = frame_count(self._data)
        for page, place in self._pages:
            try:
                self._open(place)
                whole = upright(self._image)
                scaled = as_rgb(_scale(whole, self._limits))
            except MemoryError:
                raise EngineError("the machine ran out of memory while decoding an image") from None
            except BadImage:
                raise
            except Exception as error:
                # Pillow's readers raise all kinds of exceptions on damaged data
                raise BadImage(f"the {self._image.format} image cannot be decoded: {reason(error)}") from None
            yield Decoded(scaled, *whole.size, frames, page, self._total)

    def _open(self, place: int) -> tuple[int, int, int]:
        """Go to a page; return the bytes that a pixel takes while decoded, width and height."""
        image = self._image
        if image.format == "TIFF":
            image.seek(place)
            self._limits.file.check_size(*image.size)
        plain = image.format not in _GREEDY and image.mode in _PLAIN_MODES and "transparency" not in image.info
        return _PLAIN_BYTES_PER_PIXEL if plain else BYTES_PER_PIXEL, image.width, image.height


def _scale(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """Scale in one step: another filter before the model's own, or JPEG's, would blur what it sees."""
    if limits.fit is not None:
        size = limits.fit.size(image.width, image.height)
        return image.resize(size, Image.Resampling(limits.fit.resample))
    scale = math.sqrt(image.width * image.height / limits.useful_pixels) / OVERSAMPLING
    if scale <= 1:
        return image
    # the filter that leaves the most for the one that follows: edges keep 1.00 of their energy, with bicubic 0.96
    return image.resize((math.ceil(image.width / scale), math.ceil(image.height / scale)), Image.Resampling.LANCZOS)
