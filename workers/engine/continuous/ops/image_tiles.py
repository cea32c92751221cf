"""Divides images into tiles, each of which a program of `vision_kernel` takes for one head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

#: rows of a tile: of each of the kernel's 3 groups of warps 64
TILE_ROWS = 192


def image_tiles(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return each tile's first row, and where its image begins and ends, for images one after another.

    A tile has up to `TILE_ROWS` rows of one image. Those of the longest image come first, as they take longest: then
    all multiprocessors end at about the same time.
    """
    stops = accumulate(lengths)
    spans = sorted(((stop - length, stop) for length, stop in zip(lengths, stops, strict=True)), key=_length)
    return [(row, begin, stop) for begin, stop in reversed(spans) for row in range(begin, stop, TILE_ROWS)]


def _length(span: tuple[int, int]) -> int:
    begin, stop = span
    return stop - begin
