"""WebP (RFC 9649): containers, canvases and frames that lie."""

from __future__ import annotations

import io
import struct
from functools import cache, partial
from random import Random

from PIL import Image

from tests.corpus.registry import bad


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    data = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(data) if size is None else size) + data


def chunk(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def _three(*numbers: int) -> bytes:
    return b"".join(struct.pack("<I", number)[:3] for number in numbers)


def extended(width: int, height: int, flags: int = 0) -> bytes:
    """Return the header with flags 0x20 profile, 0x10 alpha, 8 EXIF, 4 XMP, 2 animation."""
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _three(width - 1, height - 1))


@cache
def image(width: int = 40, height: int = 30, lossless: bool = False, mode: str = "RGB") -> bytes:
    """Return the chunks of a still image."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert(mode).save(buffer, "WEBP", lossless=lossless, method=0)
    data = buffer.getvalue()[12:]
    # an image with transparency has a header of its own
    return data[18:] if data.startswith(b"VP8X") else data


def frame(width: int, height: int, data: bytes, x: int = 0, y: int = 0, flags: int = 0) -> bytes:
    return chunk(b"ANMF", _three(x // 2, y // 2, width - 1, height - 1, 40) + bytes([flags]) + data)


_ANIM = chunk(b"ANIM", bytes(6))


@bad("webp-frames-garbage")
def _garbage_frames(draw: Random) -> bytes:
    frames = [frame(40, 30, chunk(draw.choice((b"VP8 ", b"VP8L", b"ALPH")), draw.randbytes(200))) for _ in range(20)]
    return riff(extended(40, 30, 2), _ANIM, frame(40, 30, image()), *frames)


@bad("webp-lossless-garbage")
def _lossless_garbage(draw: Random) -> bytes:
    size = draw.choice((30, 3000, 7000)) - 1
    return riff(chunk(b"VP8L", b"\x2f" + struct.pack("<I", size | size << 14) + draw.randbytes(5000)))


@bad("webp-lossy-garbage")
def _lossy_garbage(draw: Random) -> bytes:
    size = draw.choice((0, 40, 7000, 16_383))
    return riff(chunk(b"VP8 ", b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", size, size) + draw.randbytes(5000)))


@bad("webp-alpha-garbage")
def _alpha(draw: Random) -> bytes:
    alpha = chunk(b"ALPH", bytes([draw.randrange(256)]) + draw.randbytes(300))
    return riff(extended(40, 30, 0x10), alpha, image())


@bad("webp-profile-and-exif-garbage")
def _metadata(draw: Random) -> bytes:
    profile, exif = chunk(b"ICCP", draw.randbytes(3000)), chunk(b"EXIF", b"Exif\0\0MM\0*" + draw.randbytes(3000))
    return riff(extended(40, 30, 0x28), profile, image(), exif)


def one_colour(width: int, height: int) -> bytes:
    """Return a lossless image of one colour: each of its codes has one symbol, so a pixel takes no bits (3.7.2)."""
    # size, then no alpha, version 0, no transform, no cache, no groups of codes; five codes of one symbol of one bit
    bits = (width - 1) | (height - 1) << 14
    at = 28 + 1 + 3 + 1 + 1 + 1
    for _ in range(5):
        bits |= 1 << at
        at += 4
    return chunk(b"VP8L", b"\x2f" + bits.to_bytes((at + 7) // 8 + 8, "little"))


_LARGE = 4000
_WHOLE = {
    "16383x16383-lossless": lambda: riff(chunk(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(500))),
    "canvas-16-million-wide": lambda: riff(extended(2**24, 2**24), image()),
    "canvas-7000x7000-image-small": lambda: riff(extended(7000, 7000, 2), _ANIM, frame(40, 30, image())),
    "7000x7000-one-colour": lambda: riff(one_colour(7000, 7000)),
    "16383x3000-one-colour": lambda: riff(one_colour(16_383, 3000)),
    "1x16383": lambda: riff(image(1, 16_383)),
    "16383x1": lambda: riff(image(16_383, 1)),
    "size-zero": lambda: riff(image(), size=0),
    "size-4-gb": lambda: riff(image(), size=2**32 - 1),
    "size-odd": lambda: riff(image(), size=len(image()) + 3),
    "chunk-size-4-gb": lambda: riff(image()[:4] + b"\xff\xff\xff\xff" + image()[8:]),
    "chunk-size-zero": lambda: riff(image()[:4] + bytes(4) + image()[8:]),
    "no-chunk": lambda: riff(),
    "no-image": lambda: riff(extended(40, 30)),
    "truncated-lossy": lambda: riff(image(400, 300))[:-2000],
    "truncated-lossless": lambda: riff(image(400, 300, True))[:-2000],
    "exif-of-16-mb": lambda: riff(extended(40, 30, 8), image(), chunk(b"EXIF", bytes(16 << 20))),
    "xmp-of-16-mb": lambda: riff(extended(40, 30, 4), image(), chunk(b"XMP ", b"tiff:Orientation " * 900_000)),
    "100000-unknown-chunks": lambda: riff(extended(40, 30), *[chunk(b"JUNK", b"")] * 100_000, image()),
    "10000-frames": lambda: riff(extended(40, 30, 2), _ANIM, *[frame(40, 30, image())] * 10_000),
    "large-frames": lambda: riff(
        extended(_LARGE, _LARGE, 2), _ANIM, *[frame(_LARGE, _LARGE, one_colour(_LARGE, _LARGE))] * 300
    ),
    "frame-outside": lambda: riff(extended(40, 30, 2), _ANIM, frame(40, 30, image(), 2**24, 2**24)),
    "frame-of-another-size": lambda: riff(extended(40, 30, 2), _ANIM, frame(400, 300, image())),
    "frame-empty": lambda: riff(extended(40, 30, 2), _ANIM, chunk(b"ANMF", b"")),
    "second-frame-cut": lambda: riff(extended(40, 30, 2), _ANIM, frame(40, 30, image()), frame(40, 30, image()[:60])),
    "no-frames": lambda: riff(extended(40, 30, 2), _ANIM),
    "still-and-animated": lambda: riff(extended(40, 30, 2), image(), _ANIM, frame(40, 30, image())),
    "header-twice": lambda: riff(extended(40, 30), extended(8000, 8000), image()),
}
for _name, _make in _WHOLE.items():
    bad(f"webp-{_name}")(partial(lambda draw, make: make(), make=_make))
