"""Brings rows about one image together, so that a worker finds what it has computed of the image still in its cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from producer.bulk.image_loader import PendingRow
from producer.inputs import image_sources

#: rows that are read ahead, and characters of their texts and sources, which are images themselves if they are inline
WINDOW_ROWS = 2048
WINDOW_CHARACTERS = 16 * 2**20


@dataclass(slots=True)
class _Group:
    """Rows that show the same image first."""

    rows: list[PendingRow] = field(default_factory=list)
    characters: int = 0


def neighbours(rows: Iterable[PendingRow], most: int = WINDOW_ROWS) -> Iterator[PendingRow]:
    """Yield the rows in order, but each that shows an image first at once after the earlier ones that do so.

    Looks `most` rows ahead, so that many rows at most are brought forward over any row.
    """
    #: by the first image, the oldest first
    groups: dict[str, _Group] = {}
    count = characters = 0
    for row in rows:
        sources = image_sources(row.row)
        size = sum(map(len, sources)) + _characters(row)
        # rows without images have nothing to share
        group = groups.setdefault(sources[0] if sources else row.id, _Group())
        group.rows.append(row)
        group.characters += size
        count, characters = count + 1, characters + size
        while count >= most or characters >= WINDOW_CHARACTERS:
            oldest = groups.pop(next(iter(groups)))
            count, characters = count - len(oldest.rows), characters - oldest.characters
            yield from oldest.rows
    for group in groups.values():
        yield from group.rows


def _characters(row: PendingRow) -> int:
    """Return the length of the row's texts."""
    parts = (part for message in row.row.fields["messages"] for part in message["content"])
    return sum(len(part["text"]) for part in parts if part["type"] == "text")
