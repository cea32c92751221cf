"""ICO: directories that lie, around PNG and BMP files that lie."""

from __future__ import annotations

import struct
from functools import partial
from random import Random

from tests.corpus.formats.bmp import RLE8, bmp
from tests.corpus.formats.png import black, header, png, zeros
from tests.corpus.registry import bad


def ico(
    *images: bytes, count: int | None = None, offset: int | None = None, kind: int = 1, size: int | None = None
) -> bytes:
    at, entries = 6 + 16 * len(images), b""
    for data in images:
        where, length = at if offset is None else offset, len(data) if size is None else size
        entries += struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, length & 0xFFFFFFFF, where & 0xFFFFFFFF)
        at += len(data)
    return struct.pack("<HHH", 0, kind, len(images) if count is None else count) + entries + b"".join(images)


@bad("ico-entries-garbage")
def _garbage(draw: Random) -> bytes:
    return struct.pack("<HHH", 0, 1, 20) + draw.randbytes(16 * 20) + black()


_BITMAP = bmp(32, 64, bytes(32 * 64 * 4), 32)[14:]
_WHOLE = {
    "png-of-49-megapixels": lambda: ico(black(7000, 7000)),
    "png-beyond-the-limit": lambda: ico(png(header(30_000, 30_000, 1, 0), zeros(30_000, 30_000, 0, 1))),
    "bitmap-of-49-megapixels": lambda: ico(bmp(7000, 14_000, b"\xff\x07" * 200, 8, RLE8)[14:]),
    "20000-entries": lambda: ico(*[b""] * 20_000) + _BITMAP,
    "65535-entries-claimed": lambda: ico(_BITMAP, count=65_535),
    "no-entries": lambda: ico(),
    "offset-beyond-end": lambda: ico(_BITMAP, offset=2**31),
    "offset-zero": lambda: ico(_BITMAP, offset=0),
    "size-4-gb": lambda: ico(_BITMAP, size=2**32 - 1),
    "mask-missing": lambda: ico(bmp(32, 64, bytes(32 * 32 * 3))[14:]),
    "in-itself": lambda: ico(ico(ico(_BITMAP))),
    "cursor": lambda: ico(_BITMAP, kind=2),
}
for _name, _make in _WHOLE.items():
    bad(f"ico-{_name}")(partial(lambda draw, make: make(), make=_make))
