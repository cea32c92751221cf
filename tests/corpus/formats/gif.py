"""GIF89a: LZW codes without sense, frames without end, frames outside the screen."""

from __future__ import annotations

import struct
from functools import partial
from random import Random

from tests.corpus.registry import bad

TRAILER = b";"


def screen(width: int, height: int, colours: int = 2) -> bytes:
    """Return the header with a palette of 2**colours entries; none with 0."""
    table = bytes(range(256))[: 2**colours] if colours else b""
    palette = b"".join(bytes((value, value, value)) for value in table)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 | (colours - 1) if colours else 0, 0, 0) + palette


def blocks(data: bytes) -> bytes:
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def lzw_zeros(count: int, bits: int = 2) -> bytes:
    """Return `count` zeros in LZW: each code stands for one more than the last, so 12 bits stand for up to 4,000."""
    clear, left, codes = 1 << bits, count, []
    while left > 0:
        codes.append((clear, 12 if codes else bits + 1))
        for run in range(1, 4096 - clear):
            if left <= 0:
                break
            # the newest entry of the decoder's table, or 0 itself
            code, newest = (0, 0) if run == 1 else (clear + run, clear + run)
            codes.append((code, max(bits + 1, newest.bit_length())))
            left -= run
    codes.append((clear + 1, max(bits + 1, (codes[-1][0] + 1).bit_length())))
    return _packed(codes)


def _packed(codes: list[tuple[int, int]]) -> bytes:
    out, held, have = bytearray(), 0, 0
    for code, width in codes:
        held |= code << have
        have += width
        while have >= 8:
            out.append(held & 255)
            held, have = held >> 8, have - 8
    out.append(held & 255)
    return bytes(out)


def frame(width: int, height: int, data: bytes, x: int = 0, y: int = 0, bits: int = 2, flags: int = 0) -> bytes:
    return b"," + struct.pack("<HHHHB", x, y, width, height, flags) + bytes([bits]) + blocks(data)


def control(disposal: int, delay: int = 1) -> bytes:
    return b"!\xf9\x04" + struct.pack("<BHB", disposal << 2 | 1, delay, 0) + b"\0"


_DOT = frame(1, 1, b"\x44\x01")


@bad("gif-garbage-codes")
def _garbage(draw: Random) -> bytes:
    return screen(200, 200) + frame(200, 200, draw.randbytes(4000), bits=draw.randint(2, 8)) + TRAILER


@bad("gif-code-size-wrong")
def _code_size(draw: Random) -> bytes:
    return screen(20, 20) + frame(20, 20, draw.randbytes(300), bits=draw.choice((0, 1, 9, 11, 12, 13, 255))) + TRAILER


@bad("gif-large-frames")
def _large_frames(draw: Random) -> bytes:
    side = draw.randint(2000, 4000)
    one = lzw_zeros(side * side)
    return screen(side, side) + b"".join(control(number % 4) + frame(side, side, one) for number in range(60)) + TRAILER


@bad("gif-comment-of-10-mb")
def _comment(draw: Random) -> bytes:
    return screen(1, 1) + b"!\xfe" + blocks(draw.randbytes(1000) * 10_000) + _DOT + TRAILER


@bad("gif-xmp-of-10-mb")
def _xmp(draw: Random) -> bytes:
    return screen(1, 1) + b"!\xff\x0bXMP DataXMP" + blocks(b"<x tiff:Orientation=" * 500_000) + _DOT + TRAILER


@bad("gif-interlaced-truncated")
def _interlaced(draw: Random) -> bytes:
    data = screen(300, 300) + frame(300, 300, lzw_zeros(90_000), flags=0x40)
    return data[: draw.randrange(40, len(data))]


_WHOLE = {
    "7000x7000": lambda: screen(7000, 7000) + frame(7000, 7000, lzw_zeros(49_000_000)) + TRAILER,
    "screen-65535x65535": lambda: screen(65_535, 65_535) + _DOT + TRAILER,
    "frame-65535x65535": lambda: screen(1, 1) + frame(65_535, 65_535, lzw_zeros(1000)) + TRAILER,
    "frame-7000x7000-in-1x1": lambda: screen(1, 1) + frame(7000, 7000, lzw_zeros(1000)) + TRAILER,
    "frame-outside": lambda: screen(10, 10) + frame(10, 10, lzw_zeros(100), 65_530, 65_530) + TRAILER,
    "frame-beyond-the-limit": lambda: screen(10, 10) + frame(20, 10, lzw_zeros(200), 65_000, 3000) + TRAILER,
    "frame-empty": lambda: screen(10, 10) + frame(0, 0, b"") + TRAILER,
    "screen-empty": lambda: screen(0, 0) + _DOT + TRAILER,
    "1x65535": lambda: screen(1, 65_535) + frame(1, 65_535, lzw_zeros(65_535)) + TRAILER,
    "65535x1": lambda: screen(65_535, 1) + frame(65_535, 1, lzw_zeros(65_535)) + TRAILER,
    "100000-frames": lambda: screen(1, 1) + (control(1) + _DOT) * 100_000 + TRAILER,
    "100000-frames-growing": lambda: (
        screen(1, 1) + b"".join(frame(1, 1, b"\x44\x01", at % 3000) for at in range(100_000)) + TRAILER
    ),
    "500000-extensions": lambda: screen(1, 1) + b"!\xf9\0" * 500_000 + _DOT + TRAILER,
    "no-palette": lambda: screen(8, 8, 0) + frame(8, 8, lzw_zeros(64)) + TRAILER,
    "no-frame": lambda: screen(8, 8) + TRAILER,
    "no-trailer": lambda: screen(8, 8) + frame(8, 8, lzw_zeros(64)),
    "block-cut": lambda: screen(8, 8) + frame(8, 8, lzw_zeros(64))[:-3],
    "data-short": lambda: screen(500, 500) + frame(500, 500, lzw_zeros(64)) + TRAILER,
    "data-long": lambda: screen(8, 8) + frame(8, 8, lzw_zeros(50_000_000)) + TRAILER,
    "index-out-of-range": lambda: screen(8, 8, 1) + frame(8, 8, bytes([0x9C, 0xFF] * 20), bits=8) + TRAILER,
    "version-unknown": lambda: b"GIF88a" + screen(8, 8)[6:] + _DOT + TRAILER,
}
for _name, _make in _WHOLE.items():
    bad(f"gif-{_name}")(partial(lambda draw, make: make(), make=_make))
