"""JPEG (ITU-T T.81, JFIF, EXIF, MPO): segments that lie, scans without end, metadata without measure."""

from __future__ import annotations

import io
import struct
from functools import cache, partial
from random import Random

from PIL import Image

from tests.corpus.registry import bad

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOF0, SOF2, DHT, SOS, DQT, DNL, DRI, COM, APP1, APP2, APP14 = (
    0xC0,
    0xC2,
    0xC4,
    0xDA,
    0xDB,
    0xDC,
    0xDD,
    0xFE,
    0xE1,
    0xE2,
    0xEE,
)


def segment(marker: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2 if length is None else length) + data


@cache
def good(progressive: bool = False, mode: str = "RGB", width: int = 64, height: int = 48) -> bytes:
    picture = (
        Image.effect_noise((width, height), 80).convert(mode)
        if width * height < 10**6
        else Image.new(mode, (width, height))
    )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """Put segments in front of all others."""
    return data[:2] + b"".join(segments) + data[2:]


def with_frame(data: bytes, height: int, width: int, **fields: int) -> bytes:
    """Change what the frame header says: `precision`, `components`, `sampling` of the first, `marker`."""
    at = next(data.index(bytes([0xFF, marker])) for marker in (SOF0, SOF2) if bytes([0xFF, marker]) in data)
    changed = bytearray(data)
    struct.pack_into(">HH", changed, at + 5, height, width)
    for name, offset in (("marker", 1), ("precision", 4), ("components", 9), ("sampling", 11), ("table", 12)):
        if name in fields:
            changed[at + offset] = fields[name]
    return bytes(changed)


def scans(repeats: int, width: int = 64, height: int = 48) -> bytes:
    """Return a progressive image that repeats its refining scans: each costs a pass over all coefficients."""
    data = good(progressive=True, width=width, height=height)
    last = data.rindex(b"\xff\xda")
    scan = data[last : data.rindex(EOI)]
    return data[:last] + scan * repeats + EOI


def exif(*entries: bytes, following: int = 0) -> bytes:
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return segment(APP1, b"Exif\0\0II*\0\x08\0\0\0" + directory)


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value & 0xFFFFFFFF)


@bad("jpeg-scans-repeated")
def _repeated_scans(draw: Random) -> bytes:
    return scans(draw.randint(2000, 8000))


@bad("jpeg-scans-repeated-for-megapixels")
def _dear_scans(draw: Random) -> bytes:
    return scans(draw.randint(300, 900), 3000, 2000)


@bad("jpeg-progressive-truncated")
def _progressive(draw: Random) -> bytes:
    data = good(progressive=True)
    return data[: draw.randrange(len(data) // 2, len(data) - 2)]


@bad("jpeg-garbage-scan")
def _garbage_scan(draw: Random) -> bytes:
    data = good()
    at = data.rindex(b"\xff\xda") + 14
    return data[:at] + draw.randbytes(5000) + EOI


@bad("jpeg-restarts-out-of-order")
def _restarts(draw: Random) -> bytes:
    data = with_segments(good(), segment(DRI, b"\0\1"))
    at = data.rindex(b"\xff\xda") + 14
    return data[:at] + b"".join(b"\0\xff" + bytes([draw.randint(0xD0, 0xD7)]) for _ in range(3000)) + EOI


@bad("jpeg-huffman-tables-wrong")
def _huffman(draw: Random) -> bytes:
    counts = bytes(draw.choice((0, 1, 255)) for _ in range(16))
    return with_segments(good(), segment(DHT, b"\0" + counts + draw.randbytes(draw.choice((0, 16, sum(counts))))))


@bad("jpeg-quantisation-tables-wrong")
def _quantisation(draw: Random) -> bytes:
    return with_segments(
        good(), segment(DQT, bytes([draw.choice((0x04, 0x0F, 0x14, 0xFF))]) + bytes(draw.choice((0, 63, 128))))
    )


@bad("jpeg-exif-loop")
def _exif_loop(draw: Random) -> bytes:
    tags = draw.sample((0x8769, 0x8825, 0xA005, 0x014A), 2)
    return with_segments(good(), exif(*[entry(tag, 4, 1, 8) for tag in tags], following=8))


@bad("jpeg-exif-wild-offsets")
def _exif_offsets(draw: Random) -> bytes:
    entries = [
        entry(draw.randrange(65_536), draw.randrange(16), draw.choice((1, 2**16, 2**32 - 1)), draw.getrandbits(32))
        for _ in range(60)
    ]
    return with_segments(good(), exif(*entries, following=draw.getrandbits(32)))


@bad("jpeg-exif-orientation-nonsense")
def _orientation(draw: Random) -> bytes:
    return with_segments(
        good(),
        exif(entry(0x0112, draw.choice((0, 2, 3, 5, 12)), draw.choice((0, 1, 2**31)), draw.choice((0, 9, 2**31)))),
    )


@bad("jpeg-exif-of-16-mb")
def _exif_huge(draw: Random) -> bytes:
    return with_segments(
        good(), *[segment(APP1, b"Exif\0\0II*\0\x08\0\0\0" + draw.randbytes(65_000)) for _ in range(250)]
    )


@bad("jpeg-profile-of-16-mb")
def _profile_huge(draw: Random) -> bytes:
    return with_segments(
        good(), *[segment(APP2, b"ICC_PROFILE\0" + bytes((part, 250)) + bytes(65_000)) for part in range(1, 251)]
    )


@bad("jpeg-profile-parts-wrong")
def _profile_parts(draw: Random) -> bytes:
    parts = [
        segment(APP2, b"ICC_PROFILE\0" + bytes((draw.randrange(256), draw.randrange(256))) + draw.randbytes(200))
        for _ in range(20)
    ]
    return with_segments(good(), *parts)


@bad("jpeg-xmp-of-16-mb")
def _xmp(draw: Random) -> bytes:
    opening = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + b"tiff:Orientation \t" * 3000
    return with_segments(good(), *[segment(APP1, opening)] * 250)


@bad("jpeg-100000-comments")
def _comments(draw: Random) -> bytes:
    return with_segments(good(), *[segment(COM, b"c")] * 100_000)


@bad("jpeg-fill-bytes")
def _fill(draw: Random) -> bytes:
    return SOI + b"\xff" * draw.randint(10**6, 10**7) + good()[2:]


@bad("jpeg-adobe-transform-wrong")
def _adobe(draw: Random) -> bytes:
    mode = draw.choice(("L", "RGB", "CMYK"))
    marker = segment(APP14, b"Adobe\0\x64\0\0\0\0" + bytes([draw.choice((0, 1, 2, 255))]))
    return with_segments(good(mode=mode), marker)


@bad("jpeg-two-frames")
def _two_frames(draw: Random) -> bytes:
    data = good()
    at, end = data.index(b"\xff\xc0"), data.index(b"\xff\xc4")
    return data[:end] + with_frame(data, 8000, 6000)[at:end] + data[end:]


def _mpo(draw: Random, count: int, claimed: int, size: int, offset: int) -> bytes:
    """Return a multi-picture file by CIPA DC-007: `count` entries of its index, all the same."""
    entries = struct.pack("<IIIHH", 0x030000, size & 0xFFFFFFFF, offset & 0xFFFFFFFF, 0, 0) * count
    index = struct.pack("<H", 3) + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + entry(0xB001, 4, 1, claimed)
    index += entry(0xB002, 7, len(entries), 8 + 2 + 36 + 4) + struct.pack("<I", 0)
    return with_segments(good(), segment(APP2, b"MPF\0II*\0\x08\0\0\0" + index + entries)) + good()


#: entries, images that it claims, their size and their offset
_MPO = {
    "offset-beyond": (2, 2, 1000, 2**31),
    "offset-zero": (2, 2, 1000, 0),
    "offset-negative": (2, 2, 2**32 - 1, 2**32 - 1),
    "claims-65535": (2, 65_535, 1000, 0),
    "claims-4-billion": (2, 2**32 - 1, 1000, 0),
    "claims-none": (0, 0, 0, 0),
    "4000-entries": (4000, 4000, 1000, 0),
}
for _name, _numbers in _MPO.items():
    bad(f"jpeg-mpo-{_name}")(partial(lambda draw, numbers: _mpo(draw, *numbers), numbers=_numbers))

_WHOLE = {
    "65535x65535": lambda: with_frame(good(), 65_535, 65_535),
    "7000x7000-with-few-data": lambda: with_frame(good(), 7000, 7000),
    "7000x7000-progressive-with-few-data": lambda: with_frame(good(progressive=True), 7000, 7000),
    "zero-wide": lambda: with_frame(good(), 48, 0),
    "zero-high": lambda: with_frame(good(), 0, 64),
    "height-told-later": lambda: with_frame(good(), 0, 64)[:-2] + segment(DNL, b"\0\x30") + EOI,
    "1x65500": lambda: good(width=1, height=65_500),
    "65500x1": lambda: good(width=65_500, height=1),
    "no-components": lambda: with_frame(good(), 48, 64, components=0),
    "255-components": lambda: with_frame(good(), 48, 64, components=255),
    "two-components": lambda: with_frame(good(), 48, 64, components=2),
    "cmyk-with-three": lambda: with_frame(good(mode="CMYK"), 48, 64, components=3),
    "rgb-with-four": lambda: with_frame(good(), 48, 64, components=4),
    "sampling-zero": lambda: with_frame(good(), 48, 64, sampling=0),
    "sampling-15": lambda: with_frame(good(), 48, 64, sampling=0xFF),
    "sampling-4x4": lambda: with_frame(good(), 48, 64, sampling=0x44),
    "12-bits": lambda: with_frame(good(), 48, 64, precision=12),
    "16-bits": lambda: with_frame(good(), 48, 64, precision=16),
    "lossless": lambda: with_frame(good(), 48, 64, marker=0xC3),
    "hierarchical": lambda: with_frame(good(), 48, 64, marker=0xC5),
    "arithmetic": lambda: with_frame(good(), 48, 64, marker=0xC9),
    "progressive-in-name": lambda: with_frame(good(), 48, 64, marker=SOF2),
    "table-missing": lambda: with_frame(good(), 48, 64, table=9),
    "no-tables": lambda: (
        SOI + segment(SOF0, b"\x08\0\x30\0\x40\1\1\x11\0") + segment(SOS, b"\1\1\0\0\x3f\0") + bytes(500) + EOI
    ),
    "segment-length-zero": lambda: with_segments(good(), segment(APP1, b"", 0)),
    "segment-length-one": lambda: with_segments(good(), segment(APP1, b"", 1)),
    "segment-beyond-end": lambda: SOI + segment(APP1, b"Exif\0\0", 65_535),
    "start-twice": lambda: SOI + good(),
    "end-missing": lambda: good()[:-2],
    "end-at-once": lambda: SOI + EOI,
    "garbage-behind": lambda: good() + bytes(10**6),
}
for _name, _make in _WHOLE.items():
    bad(f"jpeg-{_name}")(partial(lambda draw, make: make(), make=_make))
