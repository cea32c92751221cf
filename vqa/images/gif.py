"""Frames of a GIF file, counted by its blocks: Pillow takes seconds for a hundred thousand (GIF89a, appendix A)."""

from __future__ import annotations

#: blocks that are looked at; a file of 20 MB in blocks of 255 bytes, as all writers make them, has 80,000
_MOST_BLOCKS = 100_000

_EXTENSION, _IMAGE, _TRAILER = b"!,;"


def gif_frames(data: bytes) -> int:
    """Return how many frames begin in the file, at least 1; of a file with too many blocks, those in the first."""
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
    except IndexError:
        # it ends early
        pass
    return max(1, frames)


def _after_palette(data: bytes, flags_at: int, at: int) -> int:
    """Return where the palette ends that starts at `at`, if the flags say that there is one."""
    flags = data[flags_at]
    return at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
