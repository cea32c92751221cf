"""Places of the pages of a TIFF file, compared with Pillow's own count of its directories."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vqa.errors import BadImage
from vqa.images.file import read_header
from vqa.images.tiff import MOST_PAGES, page_places


def tiff(count: int, copies: dict[int, int] | None = None, **how: Any) -> bytes:
    """A file of so many directories; `copies` are values of NewSubfileType by place."""
    images = [Image.new("L", (9 + number, 9)) for number in range(count)]
    for place, value in (copies or {}).items():
        images[place].encoderinfo = {"tiffinfo": {254: value}}
    buffer = io.BytesIO()
    images[0].save(buffer, "TIFF", save_all=True, append_images=images[1:], **how)
    return buffer.getvalue()


def chain(order: str, count: int, loops: bool = False) -> bytes:
    """So many directories without entries, the last followed by none or by the first."""
    directories = [
        struct.pack(f"{order}HI", 0, 8 + 6 * (number + 1) if number + 1 < count else 8 * loops)
        for number in range(count)
    ]
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 8) + b"".join(directories)


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
def test_each_page_has_its_place(big: bool) -> None:
    assert list(page_places(tiff(5, big_tiff=big))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "is_page"), [(0, True), (1, False), (2, True), (4, False)], ids=["whole", "preview", "page", "mask"]
)
def test_previews_and_masks_are_no_pages(value: int, is_page: bool) -> None:
    assert list(page_places(tiff(3, {1: value}))) == ([0, 1, 2] if is_page else [0, 2])


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_directories_that_go_round_are_read_once(order: str) -> None:
    assert list(page_places(chain(order, 3, loops=True))) == [0, 1, 2]


def test_so_many_directories_are_looked_at() -> None:
    assert len(list(page_places(chain("<", MOST_PAGES + 5)))) == MOST_PAGES


@given(rest=st.binary(max_size=60), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_damage_ends_the_pages(rest: bytes, cut: int, at: int) -> None:
    data = tiff(3)
    for damaged in (data[:cut], data[:at] + rest + data[at + len(rest) :], b"II*\0" + rest, b"MM\0+" + rest):
        assert list(page_places(damaged))


def _directory(order: str, big: bool, tags: list[tuple[int, int]]) -> bytes:
    """A file whose first directory claims so many values for each tag; the values themselves are missing."""
    count, entry = ("Q", "HHQQ") if big else ("H", "HHII")
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    start += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    entries = b"".join(struct.pack(order + entry, tag, 4, values, 0) for tag, values in tags)
    return start + struct.pack(order + count, len(tags)) + entries + bytes(8)


@pytest.mark.parametrize("big", [False, True], ids=["tiff", "big"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big-endian"])
@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([(254 + number, 1) for number in range(2000)], "has 2,000 tags; at most 1,000"),
        ([(256, 1), (273, 1_000_000)], "has 1,000,000 strips or tiles; at most 20,000"),
        ([(256, 1), (324, 20_001)], "has 20,001 strips or tiles"),
    ],
    ids=["tags", "strips", "tiles"],
)
def test_more_tags_and_strips_than_any_image_has_are_refused_before_they_are_read(
    order: str, big: bool, tags: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(BadImage, match=message):
        read_header(_directory(order, big, tags))
