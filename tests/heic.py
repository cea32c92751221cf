"""HEIC files, which no package here writes: an HEVC picture of PyAV's in the boxes of ISO/IEC 23008-12."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

#: kinds of HEVC's units: parameter sets, which go into the header, and what is no picture
_VPS, _SPS, _PPS, _FIRST_EXTRA = 32, 33, 34, 35


def heic(image: Image.Image, turns: int = 0, exif: bytes | None = None, quality: int = 4) -> bytes:
    """Encode the image; a viewer turns it by so many quarter turns, counterclockwise, whatever `exif` says."""
    units = _encoded(image.convert("RGB"), quality)
    coded = b"".join(struct.pack(">I", len(unit)) + unit for unit in units if _kind(unit) < _VPS)
    properties = [
        _box(b"hvcC", _configuration(units)),
        _full(b"ispe", struct.pack(">II", *image.size)),
        _full(b"pixi", bytes((3, 8, 8, 8))),
        _box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 6, 0x80)),
        *([_box(b"irot", bytes((turns % 4,)))] if turns else []),
    ]
    items = [(1, b"hvc1", coded)]
    if exif is not None:
        items.append((2, b"Exif", struct.pack(">I", 6) + b"Exif\0\0" + exif))
    return _file(items, properties)


def _file(items: list[tuple[int, bytes, bytes]], properties: list[bytes]) -> bytes:
    start = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    associations = struct.pack(">IHB", 1, 1, len(properties)) + bytes(
        number | (0x80 if number == 1 else 0) for number in range(1, len(properties) + 1)
    )
    entries = b"".join(_full(b"infe", struct.pack(">HH", id, 0) + kind + b"\0", version=2) for id, kind, _ in items)
    references = _full(b"iref", _box(b"cdsc", struct.pack(">HHH", 2, 1, 1))) if len(items) > 1 else b""

    def meta(at: int) -> bytes:
        places = b""
        for id, _, content in items:
            places += struct.pack(">HHHII", id, 0, 1, at, len(content))
            at += len(content)
        return _full(
            b"meta",
            _full(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + _full(b"pitm", struct.pack(">H", 1))
            + _full(b"iloc", b"\x44\0" + struct.pack(">H", len(items)) + places)
            + _full(b"iinf", struct.pack(">H", len(items)) + entries)
            + references
            + _box(b"iprp", _box(b"ipco", b"".join(properties)) + _full(b"ipma", associations)),
        )

    first = len(start) + len(meta(0)) + 8
    return start + meta(first) + _box(b"mdat", b"".join(content for *_, content in items))


def _encoded(image: Image.Image, quality: int) -> list[bytes]:
    """Return the units of one intra picture."""
    import av

    coder: Any = av.CodecContext.create("libx265", "w")
    coder.width, coder.height, coder.pix_fmt = *image.size, "yuv420p"
    coder.time_base = Fraction(1, 25)
    parameters = f"crf={quality}:log-level=none:pools=1:frame-threads=1:info=0:range=full:repeat-headers=1"
    coder.options = {"x265-params": parameters, "preset": "ultrafast"}
    frame = av.VideoFrame.from_ndarray(np.asarray(image), "rgb24")
    packets = [*coder.encode(_full_range(frame)), *coder.encode(None)]
    stream = b"".join(bytes(packet) for packet in packets)
    return [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1") if unit.rstrip(b"\0")]


def _full_range(frame: Any) -> Any:
    return frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="JPEG")


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _configuration(units: list[bytes]) -> bytes:
    """Return the record of ISO/IEC 14496-15, 8.3.3.1, for 8 bits and 4:2:0."""
    [sequence] = [unit for unit in units if _kind(unit) == _SPS]
    profile = _unescaped(sequence)[3:15]
    head = b"\1" + profile + struct.pack(">HBBBBHB", 0xF000, 0xFC, 0xFD, 0xF8, 0xF8, 0, 0x0F)
    sets = [[unit for unit in units if _kind(unit) == kind] for kind in (_VPS, _SPS, _PPS)]
    arrays = b"".join(
        struct.pack(">BH", 0x80 | kind, len(group)) + b"".join(struct.pack(">H", len(unit)) + unit for unit in group)
        for kind, group in zip((_VPS, _SPS, _PPS), sets, strict=True)
    )
    return head + bytes((len(sets),)) + arrays


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, content: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes((version, 0, 0, 0)) + content)
