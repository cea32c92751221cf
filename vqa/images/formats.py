"""The formats of image files that are taken, told by their first bytes alone: no reader of another format is tried."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module

#: brands of HEIF files by their coding (ISO/IEC 23008-12, annex B); `mif1` and `msf1` may be of any
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_ANY_BRANDS = frozenset({b"mif1", b"msf1", b"miaf"})

#: bytes of a file's first box that are looked at for brands
_MOST_BRANDS = 256


@dataclass(frozen=True, slots=True)
class Format:
    """A format; `name` is Pillow's for it."""

    name: str
    #: how files start
    start: re.Pattern[bytes]
    #: of Pillow, with the reader; "" if another package reads it
    module: str

    def load(self) -> None:
        """Import Pillow's reader; Pillow itself would import the readers of all its formats."""
        if self.module:
            import_module(f"PIL.{self.module}")


def _format(name: str, start: bytes, module: str) -> Format:
    return Format(name, re.compile(start, re.DOTALL), module)


HEIF = _format("HEIF", b"....ftyp", "")
AVIF = _format("AVIF", b"....ftyp", "AvifImagePlugin")
PDF = _format("PDF", rb"%PDF-", "")

#: JPEG includes MPO, a phone's JPEG with previews and depth maps after the image
FORMATS = (
    _format("JPEG", rb"\xff\xd8\xff", "JpegImagePlugin"),
    _format("PNG", rb"\x89PNG\r\n\x1a\n", "PngImagePlugin"),
    _format("WEBP", rb"RIFF....WEBP", "WebPImagePlugin"),
    _format("GIF", rb"GIF8[79]a", "GifImagePlugin"),
    _format("BMP", rb"BM", "BmpImagePlugin"),
    _format("TIFF", rb"II\*\0|MM\0\*|II\0\*|MM\*\0|II\+\0|MM\0\+", "TiffImagePlugin"),
    _format("JPEG2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2KImagePlugin"),
    AVIF,
    HEIF,
    PDF,
)

#: for messages
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000, AVIF, HEIC"


def format_of(data: bytes) -> Format | None:
    """Return the format of a file by its first bytes; None if it is not taken."""
    if HEIF.start.match(data):
        return _by_brand(data)
    return next((format for format in FORMATS if format.start.match(data)), None)


def _by_brand(data: bytes) -> Format | None:
    end = min(int.from_bytes(data[:4], "big"), _MOST_BRANDS)
    major, *others = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    if major in _AVIF_BRANDS or (major in _ANY_BRANDS and not _AVIF_BRANDS.isdisjoint(others)):
        return AVIF
    if major in _HEIC_BRANDS or (major in _ANY_BRANDS and not _HEIC_BRANDS.isdisjoint(others)):
        return HEIF
    return None
