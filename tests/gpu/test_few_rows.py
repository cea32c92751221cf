"""The kernels of a step of few rows on a card, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.conftest import BLOCK, CARD, ERRORS, Draw, assert_close, each_dtype, each_shape
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Heads
from workers.engine.continuous.ops.float8 import quantize_matrix

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

#: columns and rows of a matrix: the 30B's qkv, out and router, a dense model's, the bundled model's, odd ones
SIZES = {
    "qkv": (2048, 5120),
    "out": (4096, 2048),
    "router": (2048, 128),
    "dense": (9728, 2560),
    "bundled": (256, 640),
    "odd": (72, 50),
}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
each_count = pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])

#: of rows in a step: padding, the first token of a block, a full one, long ones
LENGTHS = {
    "one": [860],
    "padding": [0],
    "few": [1, 0, BLOCK, BLOCK + 1],
    "long": [40 * BLOCK, 3, 16 * BLOCK + 1],
    "many": [5] * 12,
}


@each_dtype
@each_size
@each_count
def test_products_of_few_rows(fused: Any, draw: Draw, dtype: torch.dtype, size: tuple[int, int], rows: int) -> None:
    width, out = size
    delta, residual, norm = (draw(*shape, dtype=dtype) for shape in ((rows, width), (rows, width), (width,)))
    weight = draw(out, width, dtype=dtype) * width**-0.5
    most = ERRORS[dtype][1]

    assert_close([fused.linear(delta, weight)], [reference.linear(delta, weight)], most)
    for before in (residual, None):
        given = (delta, before, norm, 1e-6, weight)
        assert_close(fused.norm_linear(*given), reference.norm_linear(*given), most)


@pytest.mark.parametrize("size", [SIZES["qkv"], SIZES["out"], (200, 72), (384, 512), (640, 200)], ids=str)
@each_count
def test_products_of_few_rows_in_float8_round_what_they_multiply(
    fused: Any, draw: Draw, size: tuple[int, int], rows: int
) -> None:
    width, out = size
    delta, residual, norm = (draw(*shape, dtype=torch.bfloat16) for shape in ((rows, width), (rows, width), (width,)))
    weight = quantize_matrix(draw(out, width) * width**-0.5)
    most = ERRORS[torch.bfloat16][1]

    assert_close([fused.linear(delta, weight)], [reference.linear(delta, weight)], most)
    for before in (residual, None):
        made, normed, total = fused.norm_linear(delta, before, norm, 1e-6, weight)
        # the norm may be rounded otherwise, and so quantized otherwise: the product is that of the norm that is told
        assert_close([made], [reference.linear(normed, weight)], most)
        assert_close([normed, total], reference.norm_linear(delta, before, norm, 1e-6, weight)[1:], most)


@each_dtype
@each_shape
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_step_writes_the_newest_tokens_and_attends_to_all(
    fused: Any, draw: Draw, dtype: torch.dtype, shape: tuple[int, int, int], lengths: list[int]
) -> None:
    queries, groups, width = shape
    heads = Heads(queries, groups, width, draw(width, dtype=dtype), draw(width, dtype=dtype), 1e-6)
    qkv = draw(len(lengths), (queries + 2 * groups) * width, dtype=dtype)
    angles = draw(len(lengths), width // 2)
    cos_sin = torch.stack([angles.cos(), angles.sin()], dim=1)
    tables, slot_mapping, (keys, values) = _cache(draw, lengths, groups, width, dtype)
    made, wanted = (torch.full((len(lengths), queries * width), 7.0, dtype=dtype, device=CARD) for _ in range(2))
    mine, others = [keys.clone(), values.clone()], [keys, values]
    rows = (tables, torch.tensor(lengths, device=CARD).int(), BLOCK)

    fused.attend_step(qkv, heads, cos_sin, *mine, slot_mapping, *rows, made)
    reference.attend_step(qkv, heads, cos_sin, *others, slot_mapping, *rows, wanted)

    assert_close([made], [wanted], ERRORS[dtype][1])
    # the last block belongs to nobody, and everything else is as it was or NaN in both
    assert_close(
        [cache[:-BLOCK].nan_to_num(9.0) for cache in mine],
        [cache[:-BLOCK].nan_to_num(9.0) for cache in others],
        ERRORS[dtype][0],
    )


def test_kernels_that_start_early_find_their_inputs(fused: Any, draw: Draw) -> None:
    width, inner, number, count, layers = 2048, 768, 16, 4, 6
    matrices = [
        [draw(*shape, dtype=torch.bfloat16) * shape[-1] ** -0.5 for shape in shapes]
        for shapes in [((width, width), (number, width), (number, 2 * inner, width), (number, width, inner))] * layers
    ]
    norm, x = draw(width, dtype=torch.bfloat16), draw(2, width, dtype=torch.bfloat16)

    def run(waits: bool) -> Tensor:
        def settled(made: Any) -> Any:
            if waits:
                torch.cuda.synchronize()
            return made

        delta, residual = x, None
        for first, router, gate_up, down in matrices:
            made, _, residual = settled(fused.norm_linear(delta, residual, norm, 1e-6, first))
            delta = settled(fused.linear(made, first))
            logits, h, residual = settled(fused.norm_linear(delta, residual, norm, 1e-6, router))
            weights, chosen = settled(fused.route(logits, count))
            delta = settled(fused.experts(h, weights, chosen, gate_up, down))
        return delta

    wanted = run(waits=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run(waits=False)

    for _ in range(50):
        made.zero_()
        graph.replay()
        assert torch.equal(made, wanted)


def _cache(
    draw: Draw, lengths: list[int], groups: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return block tables, the newest tokens' places, and keys and values with NaN where nothing was written."""
    blocks = [-(-length // BLOCK) for length in lengths]
    total = sum(blocks)
    tables = torch.full((len(lengths), 64), total, dtype=torch.int32, device=CARD)
    keys, values = (torch.full(((total + 1) * BLOCK, groups, width), torch.nan, device=CARD) for _ in range(2))
    slots = []
    order = torch.randperm(total, device=CARD).int().split(blocks)
    for table, mine, length in zip(tables, order, lengths, strict=True):
        table[: len(mine)] = mine
        at = torch.arange(max(length, 1), device=CARD)
        places = table[at // BLOCK].long() * BLOCK + at % BLOCK
        slots.append(places[-1])
        for cache in (keys, values):
            cache[places[:-1]] = draw(len(places) - 1, groups, width)
    return tables, torch.stack(slots), (keys.to(dtype), values.to(dtype))
