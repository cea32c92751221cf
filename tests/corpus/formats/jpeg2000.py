"""JPEG 2000 (ITU-T T.800): sizes, tiles and boxes that lie."""

from __future__ import annotations

import io
import struct
from functools import cache, partial
from random import Random

from PIL import Image

from tests.corpus.registry import bad


@cache
def codestream(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


def sized(
    width: int, height: int, tile: tuple[int, int] | None = None, parts: int = 1, depth: int = 7, sub: int = 1
) -> bytes:
    """Return a code stream whose SIZ segment says this."""
    across, down = tile or (width, height)
    numbers = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, across, down, 0, 0, parts)
    components = bytes([depth, sub, sub]) * parts
    siz = b"\xff\x51" + struct.pack(">H", 2 + len(numbers) + len(components)) + numbers + components
    data = codestream()
    after = 4 + struct.unpack_from(">H", data, 4)[0]
    return data[:2] + siz + data[after:]


def box(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", len(data) + 8 if length is None else length) + kind + data


_SIGNATURE = box(b"jP  ", b"\r\n\x87\n")
_TYPE = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")


def jp2(width: int = 64, height: int = 48, *extra: bytes, stream: bytes | None = None) -> bytes:
    head = box(b"ihdr", struct.pack(">IIHBBBB", height, width, 1, 7, 7, 0, 0))
    colour = box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    return _SIGNATURE + _TYPE + box(b"jp2h", head + colour + b"".join(extra)) + box(b"jp2c", stream or codestream())


def nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = box(b"jp2h", data)
    return _SIGNATURE + _TYPE + data


@bad("jp2-garbage-packets")
def _packets(draw: Random) -> bytes:
    data = codestream()
    return data[: draw.randrange(100, 200)] + draw.randbytes(3000) + b"\xff\xd9"


@bad("jp2-truncated")
def _truncated(draw: Random) -> bytes:
    data = codestream(300, 200)
    return data[: draw.randrange(120, len(data) - 100)]


_WHOLE = {
    "4-billion-wide": lambda: sized(2**32 - 1, 2**32 - 1),
    "7000x7000-with-few-data": lambda: sized(7000, 7000),
    "7000x7000-in-tiles-of-1x1": lambda: sized(7000, 7000, (1, 1)),
    "16384-components": lambda: sized(64, 48, parts=16_384),
    "no-components": lambda: sized(64, 48, parts=0),
    "38-bits": lambda: sized(64, 48, depth=37),
    "subsampling-zero": lambda: sized(64, 48, sub=0),
    "subsampling-255": lambda: sized(6400, 4800, sub=255),
    "tile-empty": lambda: sized(64, 48, (0, 0)),
    "tile-of-4-billion": lambda: sized(64, 48, (2**32 - 1, 2**32 - 1)),
    "zero-wide": lambda: sized(0, 0),
    "1x100000": lambda: sized(1, 100_000),
    "header-and-stream-disagree": lambda: jp2(9, 9),
    "header-of-4-billion": lambda: jp2(2**32 - 1, 2**32 - 1),
    "box-length-zero": lambda: _SIGNATURE + _TYPE + box(b"jp2h", b"", 0) + codestream(),
    "box-length-one": lambda: _SIGNATURE + _TYPE + box(b"jp2h", b"\xff" * 8, 1) + codestream(),
    "box-length-seven": lambda: _SIGNATURE + _TYPE + box(b"jp2h", b"", 7) + codestream(),
    "1000-boxes-nested": lambda: nested(1000),
    "palette-of-65535": lambda: jp2(64, 48, box(b"pclr", struct.pack(">HB", 65_535, 255) + bytes(300))),
    "100000-boxes": lambda: _SIGNATURE + _TYPE + box(b"free", b"") * 100_000 + box(b"jp2c", codestream()),
    "no-stream": lambda: _SIGNATURE + _TYPE,
}
for _name, _make in _WHOLE.items():
    bad(f"jp2-{_name}")(partial(lambda draw, make: make(), make=_make))
