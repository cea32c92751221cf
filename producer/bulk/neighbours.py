"""Brings rows about one image together, so that a worker finds what it has computed of the image still in its cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from producer.bulk.image_loader import PendingRow
from producer.inputs import image_sources

#: rows and characters of their sources, which are images themselves if they are inline, that are read ahead
WINDOW_ROWS = 2048
WINDOW_CHARACTERS = 16 * 2**20


def neighbours(rows: Iterable[PendingRow], most: int = WINDOW_ROWS) -> Iterator[PendingRow]:
    """Yield the rows in order, but each that shows an image first at once after the earlier ones that do so.

    Looks `most` rows ahead, so that many rows at most are brought forward over any row.
    """
    #: by the first image, the oldest first
    groups: dict[str, list[PendingRow]] = {}
    count = characters = 0
    for row in rows:
        sources = image_sources(row.row)
        # rows without images have nothing to share
        groups.setdefault(sources[0] if sources else row.id, []).append(row)
        count, characters = count + 1, characters + sum(map(len, sources))
        while count >= most or characters >= WINDOW_CHARACTERS:
            oldest = groups.pop(next(iter(groups)))
            count -= len(oldest)
            characters -= sum(len(source) for each in oldest for source in image_sources(each.row))
            yield from oldest
    for group in groups.values():
        yield from group
