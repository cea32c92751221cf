"""Rows about one image come together, and the others stay in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.bulk.image_loader import PendingRow
from producer.bulk.neighbours import WINDOW_CHARACTERS, neighbours
from producer.inputs import Row


def row(number: int, *sources: str, text: str = "") -> PendingRow:
    parts = [{"type": "image", "image": source} for source in sources]
    content = [*parts, {"type": "text", "text": text or f"question {number}"}]
    return PendingRow(
        f"job{number}", Row(number, f"row-{number}", {"messages": [{"role": "user", "content": content}]})
    )


def numbers(rows: Iterator[PendingRow]) -> list[int]:
    return [each.row.number for each in rows]


def test_rows_of_one_image_follow_each_other_in_their_order() -> None:
    rows = [row(n, f"file:/{image}.jpg") for n, image in enumerate("abcabcab")]
    assert numbers(neighbours(rows)) == [0, 3, 6, 1, 4, 7, 2, 5]


@pytest.mark.parametrize("sources", [(), ("file:/{}.jpg",)], ids=["texts", "images"])
def test_rows_that_share_nothing_stay_in_order(sources: tuple[str, ...]) -> None:
    rows = [row(n, *(source.format(n) for source in sources)) for n in range(50)]
    assert numbers(neighbours(rows, most=8)) == list(range(50))


@given(images=st.lists(st.integers(0, 6), max_size=60), most=st.integers(1, 20))
def test_every_row_comes_once_and_none_before_more_than_the_window(images: list[int], most: int) -> None:
    rows = [row(n, f"file:/{image}.jpg") for n, image in enumerate(images)]
    made = numbers(neighbours(rows, most))
    assert sorted(made) == list(range(len(images)))
    for place, number in enumerate(made):
        assert number - place < most
    for image in set(images):
        own = [n for n in made if images[n] == image]
        assert own == sorted(own)


def test_it_reads_no_more_rows_than_the_window_and_no_more_characters_than_fit() -> None:
    taken = 0

    def counted(size: int, text: str = "") -> Iterator[PendingRow]:
        nonlocal taken
        for taken in range(1, 101):
            yield row(taken, f"data:{taken}".ljust(size), text=text)

    next(neighbours(counted(10), most=8))
    assert taken == 8
    next(neighbours(counted(WINDOW_CHARACTERS // 4)))
    assert taken == 4
    next(neighbours(counted(10, text="a" * (WINDOW_CHARACTERS // 4))))
    assert taken == 4
