from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.continuous.ops.image_tiles import TILE_ROWS, image_tiles
from workers.engine.continuous.transfer import spans_of

some_lengths = st.lists(st.one_of(st.integers(0, 700), st.sampled_from([191, 192, 193, 384, 4096])), min_size=1)


@given(some_lengths)
def test_each_row_of_each_image_is_in_one_tile(lengths: list[int]) -> None:
    image_of: list[tuple[int, int]] = []
    for length in lengths:
        image_of += [(len(image_of), len(image_of) + length)] * length

    rows = [
        (row, (begin, stop))
        for first, begin, stop in image_tiles(lengths)
        for row in range(first, min(first + TILE_ROWS, stop))
    ]

    assert sorted(rows) == list(enumerate(image_of))


@given(some_lengths)
def test_tiles_of_the_longest_image_come_first(lengths: list[int]) -> None:
    taken = [stop - begin for _, begin, stop in image_tiles(lengths)]

    assert taken == sorted(taken, reverse=True)


@given(some_lengths)
def test_spans_have_the_tiles_next_to_where_images_begin(lengths: list[int]) -> None:
    spans = spans_of(lengths, torch.device("cpu"))

    assert spans.tiles.tolist() == [list(tile) for tile in image_tiles(lengths)]
    assert spans.cu_seqlens.tolist() == torch.tensor([0, *lengths]).cumsum(0).tolist()
    assert spans.cu_seqlens.dtype == spans.tiles.dtype == torch.int32
