"""Files of all kinds, opened alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vqa.images.formats import PDF, format_of
from workers.media.document import PdfSource
from workers.media.image import Decoded, ImageSource
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest


class Source(Protocol):
    """A file whose header has been read."""

    @property
    def count(self) -> int:
        """The number of images that `images` yields."""

    @property
    def pixels(self) -> int:
        """The pixels of these images in the file; the limit on computing time grows with them."""

    @property
    def needed_bytes(self) -> int:
        """The most memory that decoding takes, with its output, beside what every process needs."""

    def images(self) -> Iterator[Decoded]:
        """Decode the images one after another. Raises BadImage and EngineError."""


def open_source(data: bytes, limits: ImageLimits, request: ImageRequest) -> Source:
    """Open the file that a request is about; `limits` are those of the request. Raises BadImage."""
    if request.video is None:
        return PdfSource(data, limits, request) if format_of(data) is PDF else ImageSource(data, limits, request)
    # only now, as few jobs have videos and a decoder starts in a tenth of a second
    from workers.media.video import open_video

    return open_video(data, limits, request.video, request.max_pixels)


def decode(data: bytes, limits: ImageLimits, request: ImageRequest | None = None) -> tuple[Decoded, ...]:
    """Decode all images that a request asks for. Raises BadImage and EngineError."""
    request = request or ImageRequest(data)
    return tuple(open_source(data, limits.for_request(request), request).images())
