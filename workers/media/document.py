"""Pages of PDF documents as images, rendered by PDFium at the size that the model sees.

PDFium is built without JavaScript and XFA, and reads no file but the one in memory.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import Any

from PIL import Image

from vqa.errors import BadImage, EngineError
from vqa.images.pages import choose_pages
from workers.media.image import Decoded
from workers.media.limits import OVERSAMPLING, ImageLimits
from workers.media.request import ImageRequest

#: memory for the images and fonts of a page, which its size does not tell
_PAGE_BYTES = 192 * 2**20

#: of a rendered pixel: PDFium's 4, and the copies on its way to RGB
_BYTES_PER_PIXEL = 16

#: computing time of a page counts as that of an image with so many pixels: 2 s
_PAGE_PIXELS = 20_000_000

#: PDFium's own flags: render annotations; the most that a page's side may be, in points (PDF 2.0, annex C)
_ANNOTATIONS, _MOST_POINTS = 0x01, 14_400


class PdfSource:
    """The chosen pages of a PDF document."""

    def __init__(self, data: bytes, limits: ImageLimits, request: ImageRequest) -> None:
        """Read the document's structure. Raises BadImage."""
        limits.file.check_bytes(len(data))
        limits.file.check_pdf()
        self._data, self._limits = data, limits
        self._document = _open(data)
        self._total = len(self._document)
        self._pages = choose_pages(range(self._total), request.pages, limits.max_pages)

    @property
    def count(self) -> int:
        return len(self._pages)

    @property
    def pixels(self) -> int:
        return self.count * _PAGE_PIXELS

    @property
    def needed_bytes(self) -> int:
        rendered = _BYTES_PER_PIXEL * self._limits.image_bytes // 3
        return 2 * len(self._data) + _PAGE_BYTES + rendered + (self.count - 1) * self._limits.image_bytes

    def images(self) -> Iterator[Decoded]:
        """Render the pages. A page's own size is in points, 72 to the inch. Raises BadImage and EngineError."""
        for number, place in self._pages:
            try:
                page = self._document[place]
                points = page.get_size()
                size = self._size(number, *points)
                image = _rendered(page, *size)
                page.close()
            except MemoryError:
                raise EngineError("the machine ran out of memory while rendering a page") from None
            except (RuntimeError, ValueError) as error:
                # pypdfium2's error for a damaged page is a RuntimeError
                raise BadImage(f"page {number} of the PDF document cannot be rendered: {error}") from None
            width, height = (max(1, round(side)) for side in points)
            yield Decoded(image, width, height, page=number, pages=self._total)

    def _size(self, number: int, width: float, height: float) -> tuple[int, int]:
        """Return the size at which the model sees most of a page; without a fit, its processor scales it down."""
        if not (0 < width <= _MOST_POINTS and 0 < height <= _MOST_POINTS):
            raise BadImage(f"page {number} of the PDF document is {width:g} x {height:g} points")
        # tenths of a point are of no matter, and slivers are refused as for images
        self._limits.file.check_size(max(1, round(width)), max(1, round(height)))
        fit = self._limits.fit
        area = fit.max_pixels if fit else self._limits.useful_pixels * OVERSAMPLING**2
        scale = math.sqrt(area / (width * height))
        if fit is None:
            return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
        # larger than the limit by some, so that the size is the largest within it
        return fit.size(math.ceil(2 * width * scale), math.ceil(2 * height * scale))


def _open(data: bytes) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise BadImage(
            "a PDF document, which this worker cannot read; it needs `pip install 'vqa-queue[pdf]'`"
        ) from None
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise BadImage("the PDF document is encrypted: it needs a password") from None
        raise BadImage(f"the PDF document cannot be read: {error}") from None


def _rendered(page: Any, width: int, height: int) -> Image.Image:
    """Render to this size exactly: both sides are multiples of what a token covers, so the scales differ a little."""
    import pypdfium2
    from pypdfium2 import raw

    bitmap = pypdfium2.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGRx)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    raw.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width, height, 0, _ANNOTATIONS)
    pixels = ctypes.string_at(bitmap.buffer, bitmap.stride * height)
    image = Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", bitmap.stride, 1)
    bitmap.close()
    return image
