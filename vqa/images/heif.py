"""The size of a HEIC image, read from its boxes (ISO/IEC 14496-12 and 23008-12) so that a producer needs no decoder."""

from __future__ import annotations

import struct

from vqa.errors import BadImage

#: boxes of a file that are looked at, and bytes of the one that describes its images
_MOST_BOXES, _MOST_BYTES = 64, 2**20


def heif_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the largest image in the file: others are its tiles, previews and depth maps.

    The largest is the one that is shown, before it is set upright. Raises BadImage.
    """
    sizes = list(_sizes(_meta(data)))
    if not sizes:
        raise BadImage("the header of the HEIC image cannot be read: it says no size")
    return max(sizes, key=lambda size: size[0] * size[1])


def _meta(data: bytes) -> bytes:
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 16 > len(data):
            break
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        end = at + size if size else len(data)
        if kind == b"meta":
            return data[at : min(end, at + _MOST_BYTES)]
        if size and size < 8:
            break
        at = end
    return b""


def _sizes(meta: bytes) -> list[tuple[int, int]]:
    """Find the boxes `ispe`: their length 20, name, version and flags 0, width and height."""
    start, sizes = b"\0\0\0\x14ispe\0\0\0\0", []
    at = meta.find(start)
    while 0 <= at <= len(meta) - 20:
        width, height = struct.unpack_from(">II", meta, at + 12)
        sizes.append((width, height))
        at = meta.find(start, at + 20)
    return sizes
