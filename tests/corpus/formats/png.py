"""PNG (W3C PNG, third edition): lengths, palettes, interlacing, inflation, texts and animations that lie."""

from __future__ import annotations

import struct
import zlib
from functools import cache, partial
from random import Random

from tests.corpus.registry import bad

SIGNATURE = b"\x89PNG\r\n\x1a\n"

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}


@cache
def deflated_zeros(count: int) -> bytes:
    """Return `count` zero bytes, deflated to a thousandth."""
    packer = zlib.compressobj(wbits=-15)
    # every mebibyte is packed alike, as nothing before it is referred to
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % 2**20)) + packer.flush()
    # the Adler-32 checksum of zeros
    checksum = struct.pack(">HH", count % 65_521, 1)
    return b"\x78\x9c" + piece * (count >> 20) + rest + checksum


def chunk(kind: bytes, data: bytes = b"", length: int | None = None, crc: int | None = None) -> bytes:
    checked = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", checked)


def header(width: int, height: int, depth: int = 8, colour: int = RGB, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def zeros(width: int, height: int, colour: int = RGB, depth: int = 8) -> bytes:
    """Return the IDAT chunk of a black image."""
    return chunk(b"IDAT", deflated_zeros(height * (1 + (width * _CHANNELS[colour] * depth + 7) // 8)))


def png(*chunks: bytes, end: bool = True) -> bytes:
    return b"".join([SIGNATURE, *chunks, chunk(b"IEND") if end else b""])


def black(width: int = 8, height: int = 8, *extra: bytes, colour: int = RGB) -> bytes:
    """Return a valid black image with more chunks before its pixels."""
    return png(header(width, height, 8, colour), *extra, zeros(width, height, colour))


def interlaced(width: int, height: int) -> bytes:
    """Return a valid image with Adam7 interlacing, which Pillow does not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = bytearray()
    for x0, y0, dx, dy in passes:
        for y in range(y0, height, dy):
            pixels = [bytes((x * 4 % 256, y * 4 % 256, (x ^ y) * 8 % 256)) for x in range(x0, width, dx)]
            rows += b"\0" + b"".join(pixels) if pixels else b""
    return png(header(width, height, interlace=1), chunk(b"IDAT", zlib.compress(bytes(rows))))


@bad("png-interlaced-truncated")
def _interlaced_truncated(draw: Random) -> bytes:
    data = interlaced(200, 150)
    return data[: draw.randrange(60, len(data) - 20)]


@bad("png-inflates-beyond-its-size")
def _inflates(draw: Random) -> bytes:
    return png(header(8, 8), chunk(b"IDAT", deflated_zeros(draw.randint(32, 96) << 20)))


@bad("png-text-bomb")
def _text_bomb(draw: Random) -> bytes:
    kind, head = draw.choice(((b"zTXt", b"Comment\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")))
    return black(8, 8, chunk(kind, head + deflated_zeros(64 << 20)))


@bad("png-text-large")
def _text_large(draw: Random) -> bytes:
    return black(8, 8, chunk(b"tEXt", b"Comment\0" + b"x" * draw.randint(2**20, 8 << 20)))


@bad("png-100000-texts")
def _many_texts(draw: Random) -> bytes:
    return black(8, 8, *[chunk(b"tEXt", b"k%d\0v" % number) for number in range(100_000)])


@bad("png-thousand-text-bombs")
def _many_bombs(draw: Random) -> bytes:
    name = draw.choice((b"Comment", b"XML:com.adobe.xmp", b"Raw profile type exif"))
    return black(8, 8, *[chunk(b"zTXt", name + b"\0\0" + deflated_zeros(2**20 - 1))] * 1000)


@bad("png-profile-bomb")
def _profile_bomb(draw: Random) -> bytes:
    return black(8, 8, chunk(b"iCCP", b"icc\0\0" + deflated_zeros(64 << 20)))


@bad("png-profile-garbage")
def _profile_garbage(draw: Random) -> bytes:
    profile = bytearray(draw.randbytes(3000))
    profile[36:40], profile[16:20], profile[:4] = b"acsp", b"RGB ", struct.pack(">I", draw.choice((3000, 0, 2**31)))
    profile[128:132] = struct.pack(">I", draw.choice((4, 2**20, 2**32 - 1)))
    return black(8, 8, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(profile))))


@bad("png-exif-loop")
def _exif_loop(draw: Random) -> bytes:
    entry = struct.pack(">HHII", 0x8769, 4, 1, 8)
    return black(8, 8, chunk(b"eXIf", b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + struct.pack(">I", 8)))


@bad("png-exif-huge")
def _exif_huge(draw: Random) -> bytes:
    return black(8, 8, chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + draw.randbytes(12 * 65_535)))


@bad("png-raw-profile-garbage")
def _raw_profile(draw: Random) -> bytes:
    text = b"Raw profile type exif\0\nexif\n%8d\n" % draw.choice((0, 2**40)) + b"zz" * draw.randint(1, 10_000)
    return black(8, 8, chunk(b"tEXt", text))


@bad("png-palette-index-out-of-range")
def _palette_index(draw: Random) -> bytes:
    colours = chunk(b"PLTE", bytes(3 * draw.randint(1, 4)))
    rows = b"".join(b"\0" + draw.randbytes(16) for _ in range(16))
    return png(header(16, 16, 8, PALETTE), colours, chunk(b"IDAT", zlib.compress(rows)))


@bad("png-palette-of-wrong-size")
def _palette_size(draw: Random) -> bytes:
    length = draw.choice((0, 1, 2, 257 * 3, 100_000))
    transparency = chunk(b"tRNS", bytes(draw.choice((0, 300, 70_000))))
    return png(header(8, 8, 8, PALETTE), chunk(b"PLTE", bytes(length)), transparency, zeros(8, 8, PALETTE))


@bad("png-filter-unknown")
def _filter(draw: Random) -> bytes:
    rows = b"".join(bytes([draw.randint(5, 255)]) + bytes(24) for _ in range(8))
    return png(header(8, 8), chunk(b"IDAT", zlib.compress(rows)))


@bad("png-100000-empty-data-chunks")
def _empty_chunks(draw: Random) -> bytes:
    return png(header(8, 8), *[chunk(b"IDAT")] * 100_000, zeros(8, 8))


@bad("png-two-headers")
def _two_headers(draw: Random) -> bytes:
    return png(header(8, 8), header(draw.choice((9000, 2**31 - 1)), 9000), zeros(8, 8))


def _animation(
    frames: int, draw: Random, size: tuple[int, int], frame: tuple[int, int, int, int], claimed: int
) -> bytes:
    control = chunk(b"acTL", struct.pack(">II", claimed, 0))
    parts = []
    for number in range(frames):
        width, height, x, y = frame
        parts.append(
            chunk(
                b"fcTL", struct.pack(">IIIIIHHBB", 2 * number + 1, width, height, x, y, 1, 10, number % 4, number % 3)
            )
        )
        rows = deflated_zeros(height * (1 + 3 * width)) if width * height < 2**26 else draw.randbytes(99)
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + rows))
    return png(header(*size), control, zeros(*size), *parts)


#: frames, size of the image, size and place of a frame, frames that it claims
_ANIMATIONS = {
    "claims-4-billion": (2, (8, 8), (8, 8, 0, 0), 2**32 - 1),
    "claims-none": (2, (8, 8), (8, 8, 0, 0), 0),
    "10000-frames": (10_000, (8, 8), (8, 8, 0, 0), 10_000),
    "large-frames": (50, (3000, 3000), (3000, 3000, 0, 0), 50),
    "frame-outside": (2, (8, 8), (8, 8, 2**31 - 8, 2**31 - 8), 2),
    "frame-larger": (2, (8, 8), (20_000, 20_000, 0, 0), 2),
    "frame-empty": (2, (8, 8), (0, 0, 0, 0), 2),
}
for _name, (_frames, _size, _frame, _claimed) in _ANIMATIONS.items():
    bad(f"png-animation-{_name}")(
        partial(lambda draw, f, s, r, c: _animation(f, draw, s, r, c), f=_frames, s=_size, r=_frame, c=_claimed)
    )


#: each is made only when it is asked for
_WHOLE = {
    "7000x7000": lambda: black(7000, 7000),
    "grey-7000x7000-with-alpha": lambda: png(header(7000, 7000, 8, RGBA), zeros(7000, 7000, RGBA)),
    "30000x30000": lambda: png(header(30_000, 30_000, 1, GREY), zeros(30_000, 30_000, GREY, 1)),
    "2-billion-pixels-wide": lambda: png(header(2**31 - 1, 2**31 - 1), zeros(8, 8)),
    "4-billion-pixels-wide": lambda: png(header(2**32 - 1, 1), zeros(8, 8)),
    "zero-wide": lambda: png(header(0, 8), zeros(1, 8)),
    "zero-high": lambda: png(header(8, 0), zeros(8, 1)),
    "1x100000": lambda: black(1, 100_000),
    "100000x1": lambda: black(100_000, 1),
    "1x1": lambda: black(1, 1),
    "data-missing": lambda: png(header(8, 8)),
    "end-missing": lambda: png(header(8, 8), zeros(8, 8), end=False),
    "data-short": lambda: png(header(900, 900), zeros(8, 8)),
    "header-missing": lambda: png(zeros(8, 8)),
    "header-short": lambda: png(chunk(b"IHDR", b"\0\0\0\x08"), zeros(8, 8)),
    "header-length-huge": lambda: png(chunk(b"IHDR", bytes(13), length=2**32 - 1)),
    "chunk-length-negative": lambda: png(header(8, 8), chunk(b"tEXt", b"a\0b", length=2**31), zeros(8, 8)),
    "checksum-wrong": lambda: png(header(8, 8), chunk(b"IDAT", deflated_zeros(200), crc=7)),
    "chunk-name-binary": lambda: png(header(8, 8), chunk(b"\0\xff\n\x80", b"x"), zeros(8, 8)),
    "depth-3": lambda: png(header(8, 8, 3), zeros(8, 8)),
    "depth-16-palette": lambda: png(header(8, 8, 16, PALETTE), chunk(b"PLTE", bytes(3)), zeros(8, 8)),
    "colour-type-5": lambda: png(header(8, 8, 8, 5), zeros(8, 8)),
    "interlace-method-7": lambda: png(header(8, 8, interlace=7), zeros(8, 8)),
    "palette-missing": lambda: png(header(8, 8, 8, PALETTE), zeros(8, 8, PALETTE)),
    "deflate-garbage": lambda: png(header(8, 8), chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 99)),
    "deflate-dictionary": lambda: png(header(8, 8), chunk(b"IDAT", b"\x78\xbb" + b"\0" * 99)),
}
for _name, _make in _WHOLE.items():
    bad(f"png-{_name}")(partial(lambda draw, make: make(), make=_make))
