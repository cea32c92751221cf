"""Frames of a GIF file, counted by its blocks: Pillow takes seconds for a hundred thousand (GIF89a, appendix A)."""

from __future__ import annotations

from collections.abc import Iterator

from vqa.errors import BadImage

#: blocks that are looked at; a file of 20 MB in blocks of 255 bytes, as all writers make them, has 80,000
_MOST_BLOCKS = 100_000

_EXTENSION, _IMAGE, _TRAILER = b"!,;"


def check_start(data: bytes) -> None:
    """Raise BadImage for a file of so many blocks in front of its first frame that Pillow takes seconds to find it."""
    blocks = 0
    for frames in _frames(data):
        if frames:
            return
        blocks += 1
    if blocks >= _MOST_BLOCKS:
        raise BadImage(f"the GIF image has over {_MOST_BLOCKS:,} blocks before its first frame")


def gif_frames(data: bytes) -> int:
    """Return how many frames begin in the file, at least 1; of a file with too many blocks, those in the first."""
    return max(_frames(data), default=1) or 1


def _frames(data: bytes) -> Iterator[int]:
    """Yield after each block how many frames have begun."""
    frames, in_data = 0, False
    try:
        at = _after_palette(data, 10, 13)
        for _ in range(_MOST_BLOCKS):
            if in_data:
                length = data[at]
                at, in_data = at + 1 + length, length > 0
            elif data[at] == _IMAGE:
                frames += 1
                # the palette, then the size of its codes
                at, in_data = _after_palette(data, at + 9, at + 10) + 1, True
            elif data[at] == _EXTENSION:
                at, in_data = at + 2, True
            elif data[at] == _TRAILER:
                break
            else:
                at += 1
            yield frames
    except IndexError:
        # it ends early
        pass


def _after_palette(data: bytes, flags_at: int, at: int) -> int:
    """Return where the palette ends that starts at `at`, if the flags say that there is one."""
    flags = data[flags_at]
    return at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
