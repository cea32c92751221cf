"""Which files are refused by their header."""

from __future__ import annotations

from dataclasses import dataclass

from vqa.errors import BadImage


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Limits on an image file, each with a setting of `QueueSettings`; producers and workers check them alike."""

    max_bytes: int
    max_pixels: int
    #: the longer side divided by the shorter
    max_aspect: int = 200
    max_pages: int = 16
    #: whether PDF files are taken
    pdf: bool = False

    def check_bytes(self, count: int) -> None:
        """Raise BadImage for too large a file."""
        if count > self.max_bytes:
            raise BadImage(f"the image has {count:,} bytes; the limit is {self.max_bytes:,} (VQA_IMAGE_MAX_BYTES)")

    def check_size(self, width: int, height: int) -> None:
        """Raise BadImage for an image of too many pixels, or too long."""
        if min(width, height) < 1:
            raise BadImage(f"the image is {width} x {height}: it has no pixels")
        if width * height > self.max_pixels:
            raise BadImage(
                f"the image has {width} x {height} pixels; the limit is {self.max_pixels:,} (VQA_IMAGE_MAX_PIXELS)"
            )
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadImage(
                f"the image is {width} x {height}; no side may be over {self.max_aspect} times the other "
                "(VQA_IMAGE_MAX_ASPECT)"
            )

    def check_pdf(self) -> None:
        """Raise BadImage if PDF files are not taken."""
        if not self.pdf:
            raise BadImage("a PDF document: PDF files are not taken here (VQA_PDF=1 takes them)")
