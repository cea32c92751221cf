"""Directories of a TIFF file, looked at without reading more than their entries (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vqa.errors import BadImage

#: how TIFF and BigTIFF start; Pillow takes their byte orders mixed, too
STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")

#: entries of a directory, and strips or tiles of an image: Pillow takes microseconds and 300 bytes for each as it opens
#: the file. A scan of 50 megapixels with a strip for each row has 8,000
_MOST_ENTRIES, _MOST_PARTS = 1000, 20_000

#: the tags with the places of strips and tiles
_PARTS = frozenset({273, 324})

#: further pages are not looked for
MOST_PAGES = 10_000

#: the tag that says whether a directory is a page; tags are sorted and it is the lowest
_NEW_SUBFILE_TYPE = 254

#: bits of its value: a smaller copy of another page, or its mask
_NO_PAGE = 1 | 4

#: entries that are looked at for it: some writers put private tags before it
_LOOKED_AT = 4


def page_places(data: bytes) -> Iterator[int]:
    """Yield the places of the pages among a file's directories, at most MOST_PAGES; at least one.

    A directory that is a smaller copy or a mask of another page is none. What follows damage is not seen.
    """
    places = list(_places(data))
    yield from places or [0]


def check_directory(data: bytes) -> None:
    """Raise BadImage if the first image has more tags, strips or tiles than any honest one."""
    order = "<" if data.startswith(b"II") else ">"
    big = b"+" in data[2:4]
    try:
        (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
        if entries > _MOST_ENTRIES:
            raise BadImage(f"the TIFF image has {entries:,} tags; at most {_MOST_ENTRIES:,} are read")
        for number in range(entries):
            place = at + 8 + 20 * number if big else at + 2 + 12 * number
            tag, _, count = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, place)
            if tag in _PARTS and count > _MOST_PARTS:
                raise BadImage(f"the TIFF image has {count:,} strips or tiles; at most {_MOST_PARTS:,} are read")
    except (struct.error, OverflowError):
        # it ends early
        pass


def _places(data: bytes) -> Iterator[int]:
    order = "<" if data.startswith(b"II") else ">"
    big = b"+" in data[2:4]
    count_format, entry_bytes, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset_format, data, 8 if big else 4)
        while at and at not in seen and len(seen) < MOST_PAGES:
            (entries,) = struct.unpack_from(order + count_format, data, at)
            first = at + struct.calcsize(count_format)
            if not _is_copy(data, order, first, min(entries, _LOOKED_AT), entry_bytes):
                yield len(seen)
            seen.add(at)
            (at,) = struct.unpack_from(order + offset_format, data, first + entries * entry_bytes)
    except (struct.error, OverflowError):
        # it ends early
        pass


def _is_copy(data: bytes, order: str, first: int, entries: int, entry_bytes: int) -> bool:
    for at in range(first, first + entries * entry_bytes, entry_bytes):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        if tag == _NEW_SUBFILE_TYPE:
            (value,) = struct.unpack_from(f"{order}I", data, at + entry_bytes - (8 if entry_bytes == 20 else 4))
            return bool(value & _NO_PAGE)
    return False
