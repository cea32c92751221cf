"""PNG files without the texts in them, which may be far larger than the image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from vqa.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: texts that may say which side of the image is up
_KEPT_TEXTS = frozenset({b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})

#: chunks of a file; writers make them of 8 KiB, and 20 MB have room for 1.7 million, of which each takes time
_MOST_CHUNKS = 10_000

#: Pillow's limit for a text or colour profile; it refuses the whole image for a longer one
_MAX_INFLATED = 2**20


def without_texts(data: bytes) -> bytes:
    """Return a PNG file without its texts and without a colour profile of over 1 MiB.

    The texts that may contain the orientation stay. Workflows, renderings and whole documents are stored as texts, and
    Pillow refuses the image for their size. Damaged files are returned as they are. Raises BadImage for more chunks
    than any honest file has.
    """
    try:
        dropped = list(_dropped(data))
    except (struct.error, ValueError):
        return data
    parts, at = [], 0
    for start, end in dropped:
        parts.append(data[at:start])
        at = end
    return b"".join([*parts, data[at:]]) if parts else data


def _dropped(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each chunk to drop starts and ends."""
    # one of each text and one profile, so that a thousand of them are not inflated
    kept: set[bytes] = set()
    at, chunks = len(SIGNATURE), 0
    while at < len(data):
        if (chunks := chunks + 1) > _MOST_CHUNKS:
            raise BadImage(f"the PNG image has over {_MOST_CHUNKS:,} chunks")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12
        if kind in _TEXTS or kind == b"iCCP":
            keyword, _, rest = data[at + 8 : end - 4].partition(b"\0")
            name = keyword if kind in _TEXTS else kind
            if name in kept or (kind in _TEXTS and name not in _KEPT_TEXTS) or _is_large(kind, rest):
                yield at, end
            kept.add(name)
        at = end


def _is_large(kind: bytes, rest: bytes) -> bool:
    """Whether what follows a chunk's keyword inflates to over 1 MiB."""
    compressed = rest[1:]
    if kind == b"tEXt":
        return len(rest) > _MAX_INFLATED
    if kind == b"iTXt":
        flag, (_, _, compressed) = rest[:1], rest[2:].split(b"\0", 2)
        if flag == b"\0":
            return len(compressed) > _MAX_INFLATED
    try:
        return len(zlib.decompressobj().decompress(compressed, _MAX_INFLATED + 1)) > _MAX_INFLATED
    except zlib.error:
        # Pillow ignores it
        return False
