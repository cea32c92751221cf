"""TIFF 6.0 and BigTIFF: tags, strips and tiles that lie, and values that are no numbers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

from tests.corpus.formats.png import deflated_zeros
from tests.corpus.registry import bad

BYTE, ASCII, SHORT, LONG, UNDEFINED, LONG8 = 1, 2, 3, 4, 7, 16
_FORMATS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", UNDEFINED: "B", LONG8: "Q"}

(KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, PLANAR) = (
    254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284,
)  # fmt: skip
PREDICTOR, PALETTE, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, SUB_IFDS, FORMAT = (
    317,
    320,
    322,
    323,
    324,
    325,
    330,
    339,
)
JPEG_START, JPEG_LENGTH, SUBSAMPLING, PROFILE, EXIF = 513, 514, 530, 34_675, 34_665

NONE, FAX3, FAX4, LZW, OLD_JPEG, JPEG, DEFLATE, PACKBITS = 1, 3, 4, 5, 6, 7, 8, 32_773

#: a tag's type, its values, and the number of values that it claims
Tag = tuple[int, Sequence[int], int]


def tag(kind: int, *values: int) -> Tag:
    return kind, values, len(values)


def blob(data: bytes) -> Tag:
    return UNDEFINED, data, len(data)


def directory(tags: Mapping[int, Tag], at: int, following: int = 0) -> bytes:
    """Return a directory that starts at the offset `at`, with its longer values behind it."""
    rest_at = at + 2 + 12 * len(tags) + 4
    entries, rest = struct.pack("<H", len(tags)), b""
    for number, (kind, values, count) in sorted(tags.items()):
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_FORMATS.get(kind, 'I')}", *values)
        if len(data) > 4:
            data, rest = struct.pack("<I", rest_at + len(rest)), rest + data
        entries += struct.pack("<HHI", number, kind, count) + data.ljust(4, b"\0")
    return entries + struct.pack("<I", following) + rest


def base(width: int, height: int, samples: int = 3, bits: int = 8) -> dict[int, Tag]:
    """Return the tags of an image in one strip, which starts at offset 8."""
    return {
        WIDTH: tag(LONG, width),
        HEIGHT: tag(LONG, height),
        BITS: tag(SHORT, *[bits] * min(samples, 100)),
        COMPRESSION: tag(SHORT, NONE),
        PHOTOMETRIC: tag(SHORT, 2 if samples >= 3 else 1),
        STRIPS: tag(LONG, 8),
        SAMPLES: tag(SHORT, samples),
        ROWS: tag(LONG, height),
        STRIP_BYTES: tag(LONG, width * height * samples * bits // 8 % 2**32),
    }


def tiff(tags: Mapping[int, Tag], data: bytes, following: int = 0) -> bytes:
    """Return a file with the pixels at offset 8 and one directory behind them."""
    data += b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory(tags, 8 + len(data), following)


def image(data: bytes, width: int = 16, height: int = 16, samples: int = 3, bits: int = 8, **tags: Tag) -> bytes:
    """Return one image of these pixels; `tags` are named as this module's constants."""
    given = {globals()[name]: value for name, value in tags.items()}
    changed = base(width, height, samples, bits) | {STRIP_BYTES: tag(LONG, min(len(data), 2**32 - 1))} | given
    return tiff(changed, data)


def floats(*values: float, bits: int = 32) -> bytes:
    """Return a grey image of 16 x 16 numbers, of which the first are these."""
    numbers = [*values, *(at / 256 for at in range(256 - len(values)))]
    data = struct.pack(f"<256{'f' if bits == 32 else 'd'}", *numbers)
    return image(data, samples=1, bits=bits, FORMAT=tag(SHORT, 3))


@bad("tiff-garbage-lzw")
def _lzw(draw: Random) -> bytes:
    return image(
        draw.randbytes(3000), 300, 300, COMPRESSION=tag(SHORT, LZW), PREDICTOR=tag(SHORT, draw.choice((1, 2, 3, 9)))
    )


@bad("tiff-garbage-fax")
def _fax(draw: Random) -> bytes:
    kind = draw.choice((2, FAX3, FAX4))
    return image(draw.randbytes(3000), 3000, 3000, 1, 1, COMPRESSION=tag(SHORT, kind))


@bad("tiff-garbage-jpeg")
def _jpeg(draw: Random) -> bytes:
    kind = draw.choice((JPEG, OLD_JPEG))
    return image(b"\xff\xd8" + draw.randbytes(3000), 300, 300, COMPRESSION=tag(SHORT, kind), PHOTOMETRIC=tag(SHORT, 6))


@bad("tiff-compression-unknown")
def _compression(draw: Random) -> bytes:
    kind = draw.choice((0, 9, 32_766, 34_676, 34_712, 34_887, 34_892, 34_925, 50_000, 50_001, 65_535))
    return image(draw.randbytes(3000), 300, 300, COMPRESSION=tag(SHORT, kind))


@bad("tiff-not-a-number")
def _nan(draw: Random) -> bytes:
    return floats(*[draw.choice((float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 0.5)) for _ in range(40)])


@bad("tiff-tag-of-wrong-type")
def _types(draw: Random) -> bytes:
    tags = base(16, 16)
    number = draw.choice(list(tags))
    tags[number] = tag(draw.choice((0, 2, 5, 6, 11, 12, 13, 99, 65_535)), *tags[number][1])
    return tiff(tags, bytes(768))


@bad("tiff-tag-of-wrong-count")
def _counts(draw: Random) -> bytes:
    tags = base(16, 16)
    number = draw.choice(list(tags))
    tags[number] = (tags[number][0], tags[number][1], draw.choice((0, 2, 1000, 2**31, 2**32 - 1)))
    return tiff(tags, bytes(768))


@bad("tiff-tag-missing")
def _missing(draw: Random) -> bytes:
    tags = base(16, 16)
    del tags[draw.choice(list(tags))]
    return tiff(tags, bytes(768))


@bad("tiff-mode-without-sense")
def _mode(draw: Random) -> bytes:
    samples, bits = draw.choice((0, 1, 2, 3, 4, 5, 6, 64)), draw.choice((0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 64, 255))
    tags = {"PHOTOMETRIC": tag(SHORT, draw.randrange(11)), "FORMAT": tag(SHORT, draw.randrange(8))}
    return image(bytes(10_000), samples=samples, bits=bits, **tags, PLANAR=tag(SHORT, draw.choice((0, 1, 2, 3))))


def _tiled(width: int, height: int, compression: int = DEFLATE, data: bytes = b"") -> bytes:
    tags = base(8, 8)
    for number in (STRIPS, STRIP_BYTES, ROWS):
        del tags[number]
    data = data or zlib.compress(bytes(1000))
    tags |= {TILE_WIDTH: tag(LONG, width), TILE_HEIGHT: tag(LONG, height), COMPRESSION: tag(SHORT, compression)}
    return tiff(tags | {TILES: tag(LONG, 8), TILE_BYTES: tag(LONG, len(data))}, data)


_DEFLATED = tag(SHORT, DEFLATE)
_WHOLE = {
    "7000x7000-deflate": lambda: image(deflated_zeros(147_000_000), 7000, 7000, COMPRESSION=_DEFLATED),
    "7000x7000-uncompressed-missing": lambda: image(bytes(100), 7000, 7000),
    "100000x100000": lambda: image(bytes(100), 100_000, 100_000),
    "4-billion-wide": lambda: image(bytes(100), 2**32 - 1, 2**32 - 1),
    "zero-wide": lambda: image(bytes(100), 0, 16),
    "zero-high": lambda: image(bytes(100), 16, 0),
    "1x100000": lambda: image(bytes(300_000), 1, 100_000),
    "100000x1": lambda: image(bytes(300_000), 100_000, 1),
    "inflates-beyond-its-size": lambda: image(deflated_zeros(90 << 20), COMPRESSION=_DEFLATED),
    "tile-of-1-gib": lambda: _tiled(16_384, 21_840),
    "tile-of-1-gib-uncompressed": lambda: _tiled(16_384, 21_840, NONE),
    "tile-of-4-billion": lambda: _tiled(2**32 - 16, 2**32 - 16),
    "tile-of-1-gib-inflating": lambda: _tiled(16_384, 21_840, data=deflated_zeros(1 << 30)),
    "tile-empty": lambda: _tiled(0, 0),
    "tile-no-multiple-of-16": lambda: _tiled(7, 5, NONE, bytes(1000)),
    "strip-of-4-gb": lambda: image(bytes(768), STRIP_BYTES=tag(LONG, 2**32 - 1)),
    "strip-of-4-gb-deflate": lambda: image(
        zlib.compress(bytes(768)), STRIP_BYTES=tag(LONG, 2**32 - 1), COMPRESSION=_DEFLATED
    ),
    "strip-empty": lambda: image(bytes(768), STRIP_BYTES=tag(LONG, 0)),
    "strip-beyond-end": lambda: image(bytes(768), STRIPS=tag(LONG, 2**31)),
    "strip-is-the-directory": lambda: image(bytes(768), STRIPS=tag(LONG, 8 + 768)),
    "million-strips": lambda: image(bytes(768), STRIPS=tag(LONG, *[8] * 10**6), STRIP_BYTES=tag(LONG, *[48] * 10**6)),
    "million-strips-high": lambda: image(
        bytes(768), 16, 10**6, STRIPS=tag(LONG, *[8] * 10**6), STRIP_BYTES=tag(LONG, *[48] * 10**6), ROWS=tag(LONG, 1)
    ),
    "rows-zero": lambda: image(bytes(768), ROWS=tag(LONG, 0)),
    "rows-4-billion": lambda: image(bytes(768), ROWS=tag(LONG, 2**32 - 1)),
    "samples-65535": lambda: image(bytes(768), SAMPLES=tag(SHORT, 65_535)),
    "nan-everywhere": lambda: floats(*[float("nan")] * 256),
    "infinite-everywhere": lambda: floats(*[float("inf")] * 256),
    "infinite-once": lambda: floats(float("inf")),
    "minus-infinite-once": lambda: floats(float("-inf")),
    "nan-once": lambda: floats(float("nan")),
    "float-huge": lambda: floats(3e38, -3e38),
    "float-tiny": lambda: floats(*[1e-45] * 256),
    "float-64-bits": lambda: floats(float("nan"), bits=64),
    "palette-short": lambda: image(
        bytes(range(256)), samples=1, PHOTOMETRIC=tag(SHORT, 3), PALETTE=tag(SHORT, *range(12))
    ),
    "palette-missing": lambda: image(bytes(range(256)), samples=1, PHOTOMETRIC=tag(SHORT, 3)),
    "cmyk-with-three": lambda: image(bytes(768), PHOTOMETRIC=tag(SHORT, 5)),
    "subsampling-zero": lambda: image(bytes(768), PHOTOMETRIC=tag(SHORT, 6), SUBSAMPLING=tag(SHORT, 0, 0)),
    "planes-missing": lambda: image(bytes(768), PLANAR=tag(SHORT, 2)),
    "orientation-99": lambda: image(bytes(768), ORIENTATION=tag(SHORT, 99)),
    "profile-of-16-mb": lambda: image(bytes(768), PROFILE=blob(bytes(16 << 20))),
    "exif-is-the-directory": lambda: image(bytes(768), EXIF=tag(LONG, 8 + 768)),
    "sub-directories-million": lambda: image(bytes(768), SUB_IFDS=tag(LONG, *[8 + 768] * 10**6)),
    "packbits-cut": lambda: image(b"\x81\0" * 3 + b"\x7f", COMPRESSION=tag(SHORT, PACKBITS)),
    "header-only": lambda: b"II*\0\x08\0\0\0",
    "directory-beyond-end": lambda: b"MM\0*\xff\xff\xff\xf0" + bytes(50),
    "directory-of-65535-tags": lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65_535),
    "big-offsets": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 2**63 + 16, 2**64 - 1),
    "big-counts": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(400),
}
for _name, _make in _WHOLE.items():
    bad(f"tiff-{_name}")(partial(lambda draw, make: make(), make=_make))
