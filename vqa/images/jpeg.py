"""JPEG files without what is between their segments, and without metadata that nobody reads (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct

from PIL.ExifTags import Base

from vqa.errors import BadImage
from vqa.images.orientation import exif_orientation

#: a marker after any bytes that belong to no segment; Pillow would read them one by one, 2 MB in a second
_MARKER = re.compile(rb"[^\xff]*\xff+([^\xff])", re.DOTALL)

#: below the first there are no markers
_FIRST, _START_OF_SCAN, _APP0, _APP1, _APP2, _APP14 = 0xC0, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE

#: markers that a segment with a length follows: tables and frames, metadata, comments
_WITH_LENGTH = frozenset({*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDB, 0xF0), 0xFE})
_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})

#: segments in front of the pixels; a colour profile takes up to 255, and 20 MB have room for five million
_MOST_SEGMENTS = 1000


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG file with the same pixels, and of its metadata the orientation and the colour profile alone.

    Damage stays in it. Raises BadImage if the file has more segments in front of its pixels than any honest one.
    """
    parts, at, seen = [data[:2]], 2, set[bytes]()
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.match(data, at)
        if found is None:
            return b"".join(parts)
        start, marker = found.end() - 2, found[1][0]
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        at = start + 2
        cut = marker in _WITH_LENGTH and not 2 <= length <= len(data) - start - 2
        if marker == _START_OF_SCAN or 0 < marker < _FIRST or cut:
            return b"".join([*parts, data[start:]])
        if marker in _WITH_LENGTH:
            at += length
            segment = data[start:at]
            parts.append(_kept(marker, segment, seen) if marker in _METADATA else segment)
    raise BadImage(f"the JPEG image has over {_MOST_SEGMENTS:,} segments before its pixels")


def _kept(marker: int, segment: bytes, seen: set[bytes]) -> bytes:
    """Return the segment, a shorter one, or nothing; of each kind of which `seen` remembers the name, the first."""
    data = segment[4:]
    if marker == _APP1:
        name = data[:5]
        first = name not in seen
        seen.add(name)
        if not first:
            return b""
        return _orientation_alone(data) if name == b"Exif\0" else segment * data.startswith(b"http://ns.adobe.com/xap/")
    is_profile = marker == _APP2 and data.startswith(b"ICC_PROFILE\0")
    # the JFIF and Adobe segments say what the channels are
    return segment if is_profile or marker in (_APP0, _APP14) else b""


def _orientation_alone(exif: bytes) -> bytes:
    """Return an EXIF segment that says only which side is up; nothing if this one does not say it."""
    found = exif_orientation(exif)
    if found is None or not 1 <= found <= 8:
        return b""
    entry = struct.pack(">HHIHH", Base.Orientation, 3, 1, found, 0)
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + bytes(4)
    return struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body
