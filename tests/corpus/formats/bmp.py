"""BMP of Windows and OS/2: sizes, palettes and run lengths that lie."""

from __future__ import annotations

import struct
from functools import partial
from random import Random

from tests.corpus.registry import bad

RGB, RLE8, RLE4, BITFIELDS, JPEG = 0, 1, 2, 3, 4


def bmp(width: int, height: int, data: bytes, bits: int = 24, compression: int = RGB, **fields: int) -> bytes:
    """Return a file; `fields` are header_size, offset, colours (in the palette, as claimed), palette (bytes)."""
    palette = bytes(fields.get("palette", 1024 if bits <= 8 else 0))
    info = struct.pack("<iiHHIIiiII", width, height, 1, bits, compression, len(data), 0, 0, fields.get("colours", 0), 0)
    offset = fields.get("offset", 14 + 40 + len(palette))
    start = b"BM" + struct.pack("<IHHI", 14 + 40 + len(palette) + len(data), 0, 0, offset & 0xFFFFFFFF)
    return start + struct.pack("<I", fields.get("header_size", 40)) + info + palette + data


@bad("bmp-run-lengths-garbage")
def _runs(draw: Random) -> bytes:
    bits, compression = draw.choice(((8, RLE8), (4, RLE4)))
    return bmp(300, 300, draw.randbytes(5000), bits, compression)


@bad("bmp-jumps-outside")
def _jumps(draw: Random) -> bytes:
    return bmp(30, 30, b"\0\2\xff\xff" * draw.randint(1, 3000) + b"\xff\x07", 8, RLE8)


@bad("bmp-masks-wrong")
def _masks(draw: Random) -> bytes:
    masks = struct.pack("<III", *(draw.choice((0, 1, 0xFF, 0xF0F0, 2**32 - 1)) for _ in range(3)))
    return bmp(8, 8, masks + bytes(400), draw.choice((16, 32)), BITFIELDS)


_PIXELS = bytes(24 * 8)
_WHOLE = {
    "7000x7000-runs": lambda: bmp(7000, 7000, b"\xff\x07" * (7000 * 7000 // 255 + 1), 8, RLE8),
    "7000x7000-one-jump": lambda: bmp(7000, 7000, b"\0\2\1\1\1\1\0\1", 8, RLE8),
    "7000x7000-missing": lambda: bmp(7000, 7000, _PIXELS),
    "65535x65535": lambda: bmp(65_535, 65_535, _PIXELS),
    "2-billion-wide": lambda: bmp(2**31 - 1, 2**31 - 1, _PIXELS),
    "1x100000": lambda: bmp(1, 100_000, bytes(400_000)),
    "100000x1": lambda: bmp(100_000, 1, bytes(300_000)),
    "zero-wide": lambda: bmp(0, 8, _PIXELS),
    "zero-high": lambda: bmp(8, 0, _PIXELS),
    "wide-negative": lambda: bmp(-8, 8, _PIXELS),
    "height-least": lambda: bmp(8, -(2**31), _PIXELS),
    "top-down": lambda: bmp(8, -8, _PIXELS),
    "bits-3": lambda: bmp(8, 8, _PIXELS, 3),
    "bits-zero": lambda: bmp(8, 8, _PIXELS, 0),
    "palette-of-2-billion": lambda: bmp(8, 8, _PIXELS, 8, colours=2**31),
    "palette-missing": lambda: bmp(8, 8, _PIXELS, 8, palette=0),
    "offset-beyond-end": lambda: bmp(8, 8, _PIXELS, offset=2**31),
    "offset-zero": lambda: bmp(8, 8, _PIXELS, offset=0),
    "header-of-4-gb": lambda: bmp(8, 8, _PIXELS, header_size=2**32 - 1),
    "header-of-0": lambda: bmp(8, 8, _PIXELS, header_size=0),
    "header-of-12": lambda: bmp(8, 8, _PIXELS, header_size=12),
    "jpeg-inside": lambda: bmp(8, 8, _PIXELS, 0, JPEG),
    "compression-unknown": lambda: bmp(8, 8, _PIXELS, 24, 99),
    "runs-in-24-bits": lambda: bmp(8, 8, _PIXELS, 24, RLE8),
    "runs-cut": lambda: bmp(300, 300, b"\xff\x07" * 9 + b"\0", 8, RLE8),
}
for _name, _make in _WHOLE.items():
    bad(f"bmp-{_name}")(partial(lambda draw, make: make(), make=_make))
