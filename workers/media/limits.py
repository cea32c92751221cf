"""Which files are refused, and the size that images of the others are scaled to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from vqa.images.fit import Fit
from vqa.images.limits import FileLimits

if TYPE_CHECKING:
    from vqa.settings import QueueSettings
    from workers.media.request import ImageRequest

#: without a fit, an image keeps this many pixels per axis for each that the model sees; the engine's own filter then
#: gives nearly what it would give for the whole image
OVERSAMPLING = 2

#: Pillow's peak: an image with transparency, and the copies on its way to RGB
BYTES_PER_PIXEL = 32

#: of an image whose header is read: the reader of WebP allocates two canvases
_OPENING_BYTES_PER_PIXEL = 8

#: for Python, Pillow's code and the readers' own buffers
BASE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of a worker, and the size of its images."""

    max_bytes: int
    max_pixels: int
    #: the most that the model sees of an image, unless its job asks for more
    useful_pixels: int
    #: the exact size at which the model sees an image, at most; if None, the engine's image processor resizes it
    fit: Fit | None = None
    #: of one file
    max_pages: int = 16
    #: the longer side of an image divided by the shorter
    max_aspect: int = 200
    #: images of one job, after pages are counted
    max_images: int = 64
    #: whether PDF files are opened
    pdf: bool = False

    @classmethod
    def from_settings(cls, settings: QueueSettings, useful_pixels: int, fit: Fit | None = None) -> Self:
        return cls(
            settings.image_max_bytes,
            settings.image_max_pixels,
            useful_pixels,
            fit,
            settings.image_max_pages,
            settings.image_max_aspect,
            settings.image_max_count,
            settings.pdf,
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Invert `dataclasses.asdict`."""
        fit = fields["fit"]
        return cls(**{**fields, "fit": fit and Fit(**fit)})

    def for_request(self, request: ImageRequest) -> ImageLimits:
        """Return these limits with the request's own on the pixels of an image."""
        if request.frame is not None:
            return replace(self, fit=request.frame)
        if request.max_pixels is None:
            return self
        useful = min(self.useful_pixels, request.max_pixels)
        return replace(self, useful_pixels=useful, fit=self.fit and self.fit.capped(request.max_pixels))

    def filter_for(self, request: ImageRequest) -> int | None:
        """Return the filter that scales a request's images, by Pillow's number; None if the engine scales them."""
        fit = request.video.fit if request.video is not None else self.for_request(request).fit
        return fit.resample if fit is not None else None

    def pixel_bytes(self, request: ImageRequest, count: int) -> int:
        """Return the most that the pixels of the images of a request take."""
        if request.video is not None:
            # all frames together, however many they are
            return 3 * request.video.fit.for_frames(request.video.max_frames, request.max_pixels).max_pixels
        if request.frame is not None:
            return 3 * request.frame.max_pixels // request.frame.frames
        return count * self.for_request(request).image_bytes

    @property
    def file(self) -> FileLimits:
        """The limits that a file's header shows."""
        return FileLimits(self.max_bytes, self.max_pixels, self.max_aspect, self.max_pages, self.pdf)

    @property
    def memory_bytes(self) -> int:
        """The most memory that a process needs to decode one file at a time."""
        return BASE_BYTES + self.decoding_bytes

    @property
    def image_bytes(self) -> int:
        """The most that the pixels of a decoded image take."""
        return 3 * (self.fit.max_pixels if self.fit else self.useful_pixels * OVERSAMPLING**2)

    @property
    def usual_image_bytes(self) -> int:
        """The most that the pixels of an image take whose job does not ask for a higher detail."""
        return 3 * min(self.fit.max_pixels, self.useful_pixels) if self.fit else self.image_bytes

    @property
    def opening_bytes(self) -> int:
        """The most that reading a file's header takes of them."""
        return 2 * self.max_bytes + _OPENING_BYTES_PER_PIXEL * self.max_pixels

    @property
    def decoding_bytes(self) -> int:
        """The most that one file takes of them."""
        return 2 * self.max_bytes + BYTES_PER_PIXEL * self.max_pixels
