from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.base import SamplingParams
from workers.engine.continuous.encode import mrope_positions
from workers.engine.continuous.requests import Request


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)), max_size=4),
    words=st.integers(0, 7),
)
def test_positions_are_those_of_transformers(dense: Any, images: list[tuple[int, int, int]], words: int) -> None:
    """Of images with words before each of them, and words at the end."""
    kinds: list[int] = []
    places: list[tuple[int, int, int]] = []
    for before, rows, columns in images:
        kinds += [0] * before
        places.append((len(kinds), rows, columns))
        kinds += [1] * (rows * columns)
    kinds += [0] * (words or not images)
    # in patches, of which 2 x 2 are a token
    grids = torch.tensor([(1, 2 * rows, 2 * columns) for _, rows, columns in images]).view(-1, 3)

    expected, delta = dense.model.model.get_rope_index(
        input_ids=torch.zeros(1, len(kinds), dtype=torch.long),
        mm_token_type_ids=torch.tensor([kinds], dtype=torch.int),
        image_grid_thw=grids,
    )

    made = mrope_positions(len(kinds), places)
    assert torch.equal(made, expected[:, 0].T)
    assert Request(torch.zeros(len(kinds), dtype=torch.long), made, (), SamplingParams(1)).mrope_delta == delta.item()
