"""TIFF files whose chain of pages has no end, or more of them than anybody wants to see."""

from __future__ import annotations

import struct
from functools import partial
from random import Random

from tests.corpus.formats.png import deflated_zeros
from tests.corpus.formats.tiff import COMPRESSION, DEFLATE, KIND, LONG, SHORT, STRIP_BYTES, Tag, base, directory, tag
from tests.corpus.registry import bad


def chained(pages: list[dict[int, Tag]], data: bytes, last: int = 0) -> bytes:
    """Return a file of these pages; all have their pixels in `data` at offset 8. The last one points to `last`."""
    data += b"\0" * (len(data) % 2)
    at, parts = 8 + len(data), []
    for number, tags in enumerate(pages):
        length = len(directory(tags, at))
        parts.append(directory(tags, at, last if number == len(pages) - 1 else at + length))
        at += length
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + b"".join(parts)


def large_pages(count: int, side: int) -> bytes:
    data = deflated_zeros(3 * side * side)
    page = base(side, side) | {COMPRESSION: tag(SHORT, DEFLATE), STRIP_BYTES: tag(LONG, len(data))}
    return chained([page] * count, data)


def empty_directories(count: int) -> bytes:
    """Return directories without a tag, each of 6 bytes."""
    return b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HI", 0, 8 + 6 * at) for at in range(1, count)) + bytes(6)


@bad("tiff-pages-of-odd-sizes")
def _odd(draw: Random) -> bytes:
    sizes = [(draw.choice((0, 1, 7, 300, 40_000)), draw.choice((1, 9, 200, 60_000))) for _ in range(5)]
    return chained([base(*size) for size in sizes], bytes(300 * 200 * 3))


_PAGE = base(16, 16)
_PIXELS = bytes(768)
_FIRST = 8 + len(_PIXELS)
_WHOLE = {
    "loop-of-one": lambda: chained([_PAGE], _PIXELS, _FIRST),
    "loop-of-two": lambda: chained([_PAGE] * 2, _PIXELS, _FIRST),
    "loop-at-the-end": lambda: chained([_PAGE] * 3, _PIXELS, _FIRST + len(directory(_PAGE, 0))),
    "next-beyond-end": lambda: chained([_PAGE], _PIXELS, 2**32 - 2),
    "next-is-pixels": lambda: chained([_PAGE], _PIXELS, 8),
    "17": lambda: chained([_PAGE] * 17, _PIXELS),
    "20000": lambda: chained([_PAGE] * 20_000, _PIXELS),
    "million-empty": lambda: empty_directories(10**6),
    "previews-alone": lambda: chained([_PAGE | {KIND: tag(LONG, 1)}] * 5, _PIXELS),
    "100000-previews": lambda: chained([_PAGE, *[{KIND: tag(LONG, 1)}] * 100_000], _PIXELS),
    "16-of-49-megapixels": lambda: large_pages(16, 7000),
    "second-beyond-the-limit": lambda: chained([_PAGE, base(60_000, 60_000)], _PIXELS),
    "second-without-pixels": lambda: chained([_PAGE, {}], _PIXELS),
    "second-cut": lambda: chained([_PAGE, _PAGE], _PIXELS)[:-60],
}
for _name, _make in _WHOLE.items():
    bad(f"tiff-pages-{_name}")(partial(lambda draw, make: make(), make=_make))
