"""AVIF and HEIC (ISO/IEC 23008-12): boxes, items and sizes that lie."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache, partial
from random import Random

from PIL import Image

from tests.corpus.registry import bad


def box(kind: bytes, *data: bytes, length: int | None = None) -> bytes:
    body = b"".join(data)
    return struct.pack(">I", len(body) + 8 if length is None else length & 0xFFFFFFFF) + kind + body


def full(kind: bytes, *data: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *data)


@cache
def avif(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(buffer, "AVIF", speed=10)
    return buffer.getvalue()


def _payload() -> tuple[bytes, bytes]:
    """Return a valid av1C box and its coded image."""
    data = avif()
    at = data.index(b"av1C") - 4
    return data[at : at + struct.unpack_from(">I", data, at)[0]], data[data.index(b"mdat") + 4 :]


def heif(
    width: int = 64,
    height: int = 48,
    brand: bytes = b"avif",
    kind: bytes = b"av01",
    primary: int = 1,
    extents: Sequence[tuple[int, int]] | None = None,
    items: int = 1,
    references: bytes = b"",
    properties: bytes = b"",
    coded: bytes | None = None,
) -> bytes:
    """Return a file of `items` items with the same data; `extents` are offsets and lengths, in the file."""
    setup, payload = _payload()
    payload = payload if coded is None else coded
    start = box(b"ftyp", brand, bytes(4), b"mif1", brand)

    def meta(at: int) -> bytes:
        where = [(at, len(payload))] if extents is None else extents
        place = b"".join(struct.pack(">II", offset & 0xFFFFFFFF, length & 0xFFFFFFFF) for offset, length in where)
        entries = [struct.pack(">HHH", number, 0, len(where)) + place for number in range(1, items + 1)]
        infos = [
            full(b"infe", struct.pack(">HH", number, 0) + kind + b"\0", version=2) for number in range(1, items + 1)
        ]
        sizes = full(b"ispe", struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF))
        channels = full(b"pixi", b"\3\x08\x08\x08")
        links = b"".join(struct.pack(">HB", number, 3) + b"\x81\x02\x03" for number in range(1, items + 1))
        return full(
            b"meta",
            full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            full(b"pitm", struct.pack(">H", primary)),
            full(b"iloc", b"\x44\0", struct.pack(">H", items), *entries),
            full(b"iinf", struct.pack(">H", items), *infos),
            references and full(b"iref", references),
            box(
                b"iprp",
                box(b"ipco", setup, sizes, channels, properties),
                full(b"ipma", struct.pack(">I", items), links),
            ),
        )

    at = len(start) + len(meta(0)) + 8
    return start + meta(at) + box(b"mdat", payload)


def _reference(kind: bytes, source: int, *to: int) -> bytes:
    return box(kind, struct.pack(">HH", source, len(to)), *(struct.pack(">H", one) for one in to))


def _grid(rows: int, columns: int, width: int, height: int) -> bytes:
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)


def _nested(levels: int) -> bytes:
    # each holds all those after it
    data = b"".join(box(b"iprp", length=8 * left) for left in range(levels, 0, -1))
    return box(b"ftyp", b"avif", bytes(4), b"mif1avif") + full(b"meta", data)


@bad("avif-coded-garbage")
def _garbage(draw: Random) -> bytes:
    return heif(coded=draw.randbytes(500))


@bad("avif-boxes-garbage")
def _boxes(draw: Random) -> bytes:
    kinds = (b"meta", b"iloc", b"iinf", b"iprp", b"ipco", b"ipma", b"iref", b"moov", b"trak", b"stsz", b"idat")
    parts = [full(draw.choice(kinds), draw.randbytes(draw.randrange(60))) for _ in range(50)]
    return box(b"ftyp", draw.choice((b"avif", b"avis", b"heic", b"mif1", b"msf1")), bytes(4)) + b"".join(parts)


@bad("avif-brand-of-another")
def _brand(draw: Random) -> bytes:
    brand = draw.choice((b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avis", b"isom", b"jxl ", b"crx "))
    return heif(brand=brand, kind=draw.choice((b"av01", b"hvc1", b"jpeg", b"mime", b"Exif")))


@bad("heic-without-its-setup")
def _heic(draw: Random) -> bytes:
    setup = box(b"hvcC", draw.randbytes(draw.randrange(23, 200)))
    return heif(brand=b"heic", kind=b"hvc1", properties=setup, coded=draw.randbytes(2000))


_WHOLE = {
    "4-billion-wide": lambda: heif(2**32 - 1, 2**32 - 1),
    "7000x7000-said": lambda: heif(7000, 7000),
    "zero-wide": lambda: heif(0, 0),
    "100000x1": lambda: heif(100_000, 1),
    "extent-beyond-end": lambda: heif(extents=[(2**31, 100)]),
    "extent-of-4-gb": lambda: heif(extents=[(0, 2**32 - 1)]),
    "extent-empty": lambda: heif(extents=[(0, 0)]),
    "60000-extents": lambda: heif(extents=[(300, 200)] * 60_000),
    "60000-items": lambda: heif(items=60_000),
    "primary-missing": lambda: heif(primary=9),
    "alpha-of-itself": lambda: heif(references=_reference(b"auxl", 1, 1)),
    "derived-from-itself": lambda: heif(kind=b"grid", coded=_grid(1, 1, 64, 48), references=_reference(b"dimg", 1, 1)),
    "grid-of-256x256": lambda: heif(
        16_384,
        12_288,
        items=3,
        kind=b"grid",
        coded=_grid(256, 256, 16_384, 12_288),
        references=_reference(b"dimg", 1, *[2] * 65_535),
    ),
    "grid-of-each-other": lambda: heif(
        items=2,
        kind=b"grid",
        coded=_grid(1, 2, 64, 48),
        references=_reference(b"dimg", 1, 2, 2) + _reference(b"dimg", 2, 1, 1),
    ),
    "heic-grid-of-each-other": lambda: heif(
        brand=b"heic",
        items=2,
        kind=b"grid",
        coded=_grid(1, 2, 64, 48),
        references=_reference(b"dimg", 1, 2, 2) + _reference(b"dimg", 2, 1, 1),
    ),
    "heic-4-billion-wide": lambda: heif(2**32 - 1, 2**32 - 1, brand=b"heic", kind=b"hvc1"),
    "heic-60000-items": lambda: heif(brand=b"heic", kind=b"hvc1", items=60_000),
    "40000-properties": lambda: heif(properties=box(b"free") * 40_000),
    "100000-boxes-nested": lambda: _nested(100_000),
    "box-length-zero": lambda: box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(40), length=0),
    "box-length-seven": lambda: box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(40), length=7),
    "box-of-4-gb": lambda: box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(40), length=2**32 - 1),
    "type-alone": lambda: box(b"ftyp", b"avif", bytes(4)),
    "type-with-a-million-brands": lambda: box(b"ftyp", b"avif", bytes(4), b"mif1" * 10**6) + avif()[32:],
}
for _name, _make in _WHOLE.items():
    bad(f"avif-{_name}")(partial(lambda draw, make: make(), make=_make))
