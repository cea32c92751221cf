"""Boxes of AVIF, HEIC and JPEG 2000 files, bounded before their readers see them (ISO/IEC 14496-12, section 4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vqa.errors import BadImage

#: boxes beside each other; honest files have about ten
_MOST_BOXES = 1000

#: bytes of a box with an entry for each part of the image; one of 256 tiles has 6 kB. libavif looks through all earlier
#: parts for each: a minute for 60,000
_MOST_BYTES = 16_384
#: the box with the properties of the parts lies in no other of its kind
_DEEPEST = 1
#: bytes of a JPEG 2000 file's box of resolutions, whose boxes take time, too; an honest one has 44
_MOST_RESOLUTIONS = 256

#: JPEG 2000's markers after which its reader stops: start of a tile, end of the pixels, comment
_STOPS = (0x90, 0xD9, 0x64)

_PARTS = frozenset({b"iloc", b"iinf", b"iref", b"ipma"})


def check_parts(data: bytes) -> None:
    """Raise BadImage if an AVIF or HEIC file has more boxes, or more parts, than any honest one."""
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            # after its version and flags
            _check_parts(data, start + 4, end)


def check_boxes(data: bytes) -> None:
    """Raise BadImage if a JPEG 2000 file has more boxes or segments before its pixels than any honest one."""
    if data.startswith(b"\xff\x4f"):
        # without boxes
        return _check_segments(data, 2)
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"jp2h":
            for inner, first, last in _boxes(data, start, end):
                if inner == b"res " and last - first > _MOST_RESOLUTIONS:
                    raise BadImage(f"the image has resolutions of over {_MOST_RESOLUTIONS:,} bytes")
        elif kind == b"jp2c":
            return _check_segments(data, start + 2)


def _check_segments(data: bytes, at: int) -> None:
    """Check those of a codestream (ITU-T T.800, annex A), after its first marker."""
    for _ in range(_MOST_BOXES):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 > len(data) or data[at + 1] in _STOPS or length < 2:
            return
        at += 2 + length
    raise BadImage(f"the image has over {_MOST_BOXES:,} segments before its pixels")


def _check_parts(data: bytes, at: int, end: int, depth: int = 0) -> None:
    for kind, start, stop in _boxes(data, at, end):
        if kind == b"iprp" and depth < _DEEPEST:
            _check_parts(data, start, stop, depth + 1)
        elif kind in _PARTS and stop - start > _MOST_BYTES:
            raise BadImage(f"the image has too many parts: its box {kind.decode()} has over {_MOST_BYTES:,} bytes")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the contents of each box; those after damage are not seen."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            if at + 16 > end:
                return
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        size = size or end - at
        if size < head:
            return
        yield kind, at + head, min(end, at + size)
        at += size
    raise BadImage(f"the image has over {_MOST_BOXES:,} boxes")
