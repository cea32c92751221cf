"""The kernels of a mixture of experts on a card, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.conftest import CARD, Draw, error_of
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Float8Matrix
from workers.engine.continuous.ops.float8 import dequantize, quantize_matrix

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

#: experts, their inner size, hidden size, experts of a token: the 30B's, one with odd tiles
SIZES = {"30B": (128, 768, 2048, 8), "odd": (12, 384, 640, 3)}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
each_count = pytest.mark.parametrize("tokens", [1, 12, 100, 256, 300, 512, 777, 1500, 2304, 4096])


def float8_of(weights: Tensor) -> Float8Matrix:
    each = [quantize_matrix(weight) for weight in weights]
    return Float8Matrix(torch.stack([one.values for one in each]), torch.stack([one.scales for one in each]))


@pytest.mark.parametrize("tokens", [1, 5, 257, 4096])
@pytest.mark.parametrize("lines", [16, 64, 128])
@pytest.mark.parametrize("crowded", [False, True])
def test_the_order_has_each_pair_once_and_blocks_of_one_expert(
    draw: Draw, tokens: int, lines: int, crowded: bool
) -> None:
    from workers.engine.continuous.ops.expert_order import order_of

    experts, count = 60, 4
    chosen = draw(tokens, 6 if crowded else experts).topk(count).indices.int()

    order = order_of(chosen, experts, lines)

    assert order.pairs.sort().values.tolist() == list(range(tokens * count))
    assert torch.equal(order.pairs[order.places.long()].flatten(), torch.arange(tokens * count, device=CARD).int())
    in_order = chosen.flatten()[order.pairs.long()].tolist()
    assert in_order == sorted(in_order)
    begins, ends, first = order.spans.tolist()
    counts = torch.bincount(chosen.flatten(), minlength=experts).tolist()
    assert [end - begin for begin, end in zip(begins, ends, strict=True)] == counts
    # blocks of an expert are consecutive; behind them may be some of none
    wanted = [experts] * len(order.blocks)
    for expert, (start, pairs) in enumerate(zip(first, counts, strict=True)):
        for block in range(start, start + -(-pairs // lines)):
            assert wanted[block] == experts
            wanted[block] = expert
    assert order.blocks.tolist() == wanted


@each_count
@each_size
@pytest.mark.parametrize("crowded", [False, True])
def test_float8_experts_of_few_and_of_many_tokens(
    fused: Any, draw: Draw, tokens: int, size: tuple[int, int, int, int], crowded: bool
) -> None:
    number, inner, width, count = size
    x, logits = draw(tokens, width, dtype=torch.bfloat16), draw(tokens, number)
    if crowded:
        # all of them go to the same ones, and nobody to the others
        logits[:, :count] += 100
    weights, chosen = reference.route(logits.bfloat16(), count)
    gate_up = float8_of(draw(number, 2 * inner, width) * width**-0.5)
    down = float8_of(draw(number, width, inner) * inner**-0.5)

    made = fused.experts(x, weights, chosen, gate_up, down)

    assert made.shape == x.shape
    assert made.dtype == x.dtype
    exact = reference.experts(x.float(), weights.float(), chosen, dequantize(gate_up), dequantize(down))
    # activations of 4 significant bits, rounded twice
    assert error_of(made, exact) <= 5e-2
    assert error_of(made, reference.experts(x, weights, chosen, gate_up, down)) <= 5e-2


@pytest.mark.parametrize("tokens", [100, 300, 1500])
@pytest.mark.parametrize("float8", [False, True], ids=["bfloat16", "float8"])
def test_rows_that_are_no_numbers_change_no_other_row(fused: Any, draw: Draw, tokens: int, float8: bool) -> None:
    number, inner, width, count = SIZES["odd"]
    x = draw(tokens, width, dtype=torch.bfloat16)
    weights, chosen = reference.route(draw(tokens, number).bfloat16(), count)
    gate_up, down = draw(number, 2 * inner, width) * width**-0.5, draw(number, width, inner) * inner**-0.5
    matrices = (float8_of(gate_up), float8_of(down)) if float8 else (gate_up.bfloat16(), down.bfloat16())
    wanted = fused.experts(x, weights, chosen, *matrices)
    x[::7] = torch.nan

    made = fused.experts(x, weights, chosen, *matrices)

    fine = torch.arange(tokens, device=CARD) % 7 != 0
    assert torch.equal(made[fine], wanted[fine])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("tokens", [64, 512, 2048])
def test_a_graph_follows_the_experts_that_are_chosen(fused: Any, draw: Draw, tokens: int, dtype: torch.dtype) -> None:
    number, inner, width, count = SIZES["odd"]
    float8 = dtype == torch.float8_e4m3fn
    x = draw(tokens, width, dtype=torch.bfloat16 if float8 else dtype)
    weights, chosen = reference.route(draw(tokens, number).to(x.dtype), count)
    gate_up, down = draw(number, 2 * inner, width) * width**-0.5, draw(number, width, inner) * inner**-0.5
    matrices = (float8_of(gate_up), float8_of(down)) if float8 else (gate_up.to(dtype), down.to(dtype))
    fused.experts(x, weights, chosen, *matrices)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = fused.experts(x, weights, chosen, *matrices)

    for crowded in (False, True):
        logits = draw(tokens, number)
        if crowded:
            logits[:, :count] += 100
        chosen.copy_(reference.route(logits.to(x.dtype), count)[1])
        graph.replay()

        assert torch.equal(made, fused.experts(x, weights, chosen, *matrices))
