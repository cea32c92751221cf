"""Small valid images in every format and many modes: what gets damaged, and what must decode after each bad file."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from PIL import Image

from tests.corpus.formats.pdf import document
from tests.corpus.formats.png import interlaced


def image(mode: str = "RGB", width: int = 61, height: int = 43) -> Image.Image:
    """Return an image with something at every frequency."""
    grey = Image.linear_gradient("L").resize((width, height))
    rings = Image.radial_gradient("L").resize((width, height))
    noise = Image.frombytes("L", (width, height), bytes((7 * at * at + at // 3) % 256 for at in range(width * height)))
    return Image.merge("RGB", (grey, rings, noise)).convert(mode)


def saved(format: str, mode: str = "RGB", width: int = 61, height: int = 43, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image(mode, width, height).save(buffer, format, **options)
    return buffer.getvalue()


def _frames(format: str, **options: Any) -> bytes:
    frames = [image("RGB", 40, 30).rotate(10 * number) for number in range(4)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photo"
    return exif.tobytes()


@cache
def valid_files() -> dict[str, bytes]:
    """Return one file of each kind, by name."""
    return {
        "jpeg-rgb": saved("JPEG", exif=_exif(), quality=85),
        "jpeg-grey": saved("JPEG", "L"),
        "jpeg-cmyk": saved("JPEG", "CMYK"),
        "jpeg-progressive": saved("JPEG", progressive=True, restart_marker_blocks=4),
        "jpeg-mpo": _frames("MPO"),
        "png-rgb": saved("PNG"),
        "png-alpha": saved("PNG", "RGBA", exif=_exif()),
        "png-palette": saved("PNG", "P", bits=4),
        "png-deep": saved("PNG", "I;16"),
        "png-interlaced": interlaced(61, 43),
        "png-animated": _frames("PNG"),
        "webp-lossy": saved("WEBP", exif=_exif()),
        "webp-lossless": saved("WEBP", "RGBA", lossless=True),
        "webp-animated": _frames("WEBP"),
        "gif-still": saved("GIF"),
        "gif-animated": _frames("GIF"),
        "bmp-rgb": saved("BMP"),
        "bmp-palette": saved("BMP", "P"),
        "tiff-raw": saved("TIFF"),
        "tiff-lzw": saved("TIFF", compression="tiff_lzw"),
        "tiff-deflate": saved("TIFF", "CMYK", compression="tiff_adobe_deflate"),
        "tiff-jpeg": saved("TIFF", compression="jpeg"),
        "tiff-fax": saved("TIFF", "1", compression="group4"),
        "tiff-float": saved("TIFF", "F"),
        "tiff-pages": _frames("TIFF"),
        "avif": saved("AVIF", speed=10),
        "jp2": saved("JPEG2000"),
        "ico": saved("ICO", "RGBA", sizes=[(16, 16), (32, 32)]),
        "pdf": document(2),
    }
