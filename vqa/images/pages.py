"""Pages of a file: which are asked for, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from vqa.errors import BadImage


def page_range(pages: str | None) -> tuple[int, int] | None:
    """Return the first and last page, from 1, of `3` or `2-5`; None for all."""
    if pages is None:
        return None
    first, _, last = pages.partition("-")
    return int(first), int(last or first)


def choose_pages(found: Iterable[int], pages: tuple[int, int] | None, max_pages: int) -> list[tuple[int, int]]:
    """Return the chosen pages as number, from 1, and place in `found`, the places of a file's pages.

    Raises BadImage if there is no such page, or if there are too many; then not all of `found` is read.
    """
    first, last = pages or (1, max_pages + 1)
    if last < first:
        raise BadImage(f"pages {first}-{last}: the last comes before the first")
    if last - first >= max_pages and pages is not None:
        raise BadImage(f"pages {first}-{last} are more than {max_pages} (VQA_IMAGE_MAX_PAGES)")
    places = list(enumerate(islice(found, last), 1))
    if pages is None and len(places) > max_pages:
        raise BadImage(
            f"the file has more than {max_pages} pages (VQA_IMAGE_MAX_PAGES); ask for some of them (`pages`), as in 1-4"
        )
    if pages is not None and len(places) < last:
        raise BadImage(f"pages {first}-{last}: the file has {len(places)}")
    return places[first - 1 :]
