"""The kernels of a mixture of experts on a card, against plain torch."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.gpu.conftest import CARD, ERRORS, Draw, error_of
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Matrix
from workers.engine.continuous.ops.float8 import dequantize, quantize_matrix

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

#: experts, their inner size, hidden size, experts of a token: the 30B's, one with odd tiles
SIZES = {"30B": (128, 768, 2048, 8), "odd": (12, 384, 640, 3)}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
each_count = pytest.mark.parametrize("tokens", [1, 12, 100, 256, 300, 512, 777, 1500, 2304, 4096])


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
    assert not order.drawn.any()


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
    gate_up = quantize_matrix(draw(number, 2 * inner, width) * width**-0.5)
    down = quantize_matrix(draw(number, width, inner) * inner**-0.5)

    made = fused.experts(x, weights, chosen, gate_up, down)

    assert made.shape == x.shape
    assert made.dtype == x.dtype
    exact = reference.experts(x.float(), weights.float(), chosen, dequantize(gate_up), dequantize(down))
    # activations of 4 significant bits, rounded twice
    assert error_of(made, exact) <= 5e-2
    assert error_of(made, reference.experts(x, weights, chosen, gate_up, down)) <= 5e-2


@each_size
def test_a_token_in_float8_gets_what_it_gets_beside_others(
    fused: Any, draw: Draw, size: tuple[int, int, int, int]
) -> None:
    layer = drawn_layer(draw, size, 20, torch.float8_e4m3fn, "even")
    wanted = fused.experts(*layer)

    for token in range(20):
        one = (each[token : token + 1] for each in layer[:3])
        # without the rounding of gate and up's input it would be 0.04 or more, without that of down's 0.018 to 0.026
        assert error_of(fused.experts(*one, *layer[3:]), wanted[token : token + 1]) <= 2e-2


@pytest.mark.parametrize("tokens", [100, 300, 1500])
@pytest.mark.parametrize("float8", [False, True], ids=["bfloat16", "float8"])
def test_rows_that_are_no_numbers_change_no_other_row(fused: Any, draw: Draw, tokens: int, float8: bool) -> None:
    number, inner, width, count = SIZES["odd"]
    x = draw(tokens, width, dtype=torch.bfloat16)
    weights, chosen = reference.route(draw(tokens, number).bfloat16(), count)
    gate_up, down = draw(number, 2 * inner, width) * width**-0.5, draw(number, width, inner) * inner**-0.5
    matrices = (quantize_matrix(gate_up), quantize_matrix(down)) if float8 else (gate_up.bfloat16(), down.bfloat16())
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
    matrices = (quantize_matrix(gate_up), quantize_matrix(down)) if float8 else (gate_up.to(dtype), down.to(dtype))
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


#: the 30B's sizes and small ones, both for Hopper's kernels
HOPPER_SIZES = {"30B": SIZES["30B"], "small": (12, 384, 512, 3)}
#: evenly; all to the same experts; one expert has all tokens; every second expert has none
CROWDS = ["even", "same", "one", "half"]


class Layer(NamedTuple):
    x: Tensor
    weights: Tensor
    chosen: Tensor
    gate_up: Matrix
    down: Matrix


def drawn_choice(draw: Draw, tokens: int, number: int, count: int, crowd: str) -> tuple[Tensor, Tensor]:
    logits = draw(tokens, number)
    crowded = {"even": slice(0), "same": slice(count), "one": slice(1), "half": slice(0, None, 2)}[crowd]
    logits[:, crowded] += 10
    return reference.route(logits, count)


def drawn_layer(draw: Draw, size: tuple[int, int, int, int], tokens: int, dtype: torch.dtype, crowd: str) -> Layer:
    number, inner, width, count = size
    weights, chosen = drawn_choice(draw, tokens, number, count, crowd)
    gate_up, down = draw(number, 2 * inner, width) * width**-0.5, draw(number, width, inner) * inner**-0.5
    if dtype == torch.float8_e4m3fn:
        x = draw(tokens, width, dtype=torch.bfloat16)
        return Layer(x, weights.to(x.dtype), chosen, quantize_matrix(gate_up), quantize_matrix(down))
    return Layer(draw(tokens, width, dtype=dtype), weights.to(dtype), chosen, gate_up.to(dtype), down.to(dtype))


@pytest.fixture
def hopper() -> Any:
    """Says where the kernels for Hopper are used; skips where they are not."""
    from workers.engine.continuous.ops.gluon import runs_on
    from workers.engine.continuous.ops.hopper import support

    if not runs_on(CARD):
        pytest.skip("needs a Hopper card and the Triton of its kernels")
    return support


@pytest.fixture
def present(fused: Any) -> Any:
    """The operation without the kernels for Hopper."""
    from workers.engine.continuous.ops import experts

    def computed(layer: Layer) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experts, "hopper_experts_for", lambda *_: None)
            made: Tensor = fused.experts(*layer)
            return made

    return computed


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (HOPPER_SIZES["30B"], torch.bfloat16),
        (HOPPER_SIZES["small"], torch.bfloat16),
        (HOPPER_SIZES["small"], torch.float16),
        (HOPPER_SIZES["30B"], torch.float8_e4m3fn),
        (HOPPER_SIZES["small"], torch.float8_e4m3fn),
        (SIZES["odd"], torch.float8_e4m3fn),
    ],
    ids=["30B bfloat16", "small bfloat16", "small float16", "30B float8", "small float8", "odd float8"],
)
@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("tokens", [1024, 1100, 2048, 2624, 3072, 4096])
def test_on_hopper_experts_of_many_tokens_are_exactly_those_of_the_kernels_for_other_cards(
    fused: Any, hopper: Any, present: Any, draw: Draw, size: tuple[int, int, int, int], dtype: torch.dtype,
    tokens: int, crowd: str,
) -> None:  # fmt: skip
    layer = drawn_layer(draw, size, tokens, dtype, crowd)
    assert hopper.hopper_experts_for(layer.x, *layer[2:]) is not None

    made = fused.experts(*layer)

    assert torch.equal(made, present(layer))
    assert torch.equal(made, fused.experts(*layer))
    if tokens in (1024, 4096):
        # activations in float8 have 4 significant bits, rounded twice
        assert error_of(made, reference.experts(*layer)) <= (ERRORS[dtype][1] if dtype in ERRORS else 5e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_on_hopper_a_graph_of_many_tokens_follows_what_it_is_given(
    fused: Any, hopper: Any, present: Any, draw: Draw, dtype: torch.dtype
) -> None:
    size, tokens = HOPPER_SIZES["30B"], 2048
    layer = drawn_layer(draw, size, tokens, dtype, "even")
    fused.experts(*layer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = fused.experts(*layer)

    for number in range(100):
        weights, chosen = drawn_choice(draw, tokens, size[0], size[3], CROWDS[number % len(CROWDS)])
        for old, new in zip(layer, (draw(*layer.x.shape), weights, chosen), strict=False):
            old.copy_(new)
        graph.replay()

        assert torch.equal(made, present(layer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_on_hopper_rows_that_are_no_numbers_change_no_other_row(
    fused: Any, hopper: Any, draw: Draw, dtype: torch.dtype
) -> None:
    layer = drawn_layer(draw, HOPPER_SIZES["small"], 1500, dtype, "even")
    wanted = fused.experts(*layer)
    layer.x[::7] = torch.nan

    made = fused.experts(*layer)

    fine = torch.arange(1500, device=CARD) % 7 != 0
    assert torch.equal(made[fine], wanted[fine])


@pytest.mark.parametrize(
    ("size", "tokens", "dtype"),
    [
        (SIZES["odd"], 2048, torch.bfloat16),
        (HOPPER_SIZES["small"], 1023, torch.bfloat16),
        (HOPPER_SIZES["small"], 2048, torch.float32),
    ],
    ids=["odd sizes", "few tokens", "float32"],
)
def test_the_kernels_for_hopper_are_not_used_for(
    hopper: Any, draw: Draw, size: tuple[int, int, int, int], tokens: int, dtype: torch.dtype
) -> None:
    layer = drawn_layer(draw, size, tokens, dtype, "even")

    assert hopper.hopper_experts_for(layer.x, *layer[2:]) is None


@pytest.mark.parametrize("fault", ["raises", "makes zeros", "makes NaN"])
def test_experts_of_many_tokens_do_without_kernels_that_fail_their_trial(
    fused: Any, hopper: Any, present: Any, draw: Draw, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, fault: str,
) -> None:  # fmt: skip
    from workers.engine.continuous.ops.grouped_experts import grouped_experts
    from workers.engine.continuous.ops.hopper import experts

    def broken(*given: Tensor) -> tuple[Tensor, Tensor]:
        if fault == "raises":
            raise AttributeError("gluon.jit")
        made, places = grouped_experts(*given)
        return made.fill_(0.0 if fault == "makes zeros" else torch.nan), places

    monkeypatch.setattr(experts, "hopper_experts", broken)
    monkeypatch.setattr(hopper, "_tried", {})
    layer = drawn_layer(draw, HOPPER_SIZES["small"], 1500, torch.bfloat16, "even")

    with caplog.at_level(logging.WARNING):
        made = [fused.experts(*layer) for _ in range(2)]

    for one in made:
        assert torch.equal(one, present(layer))
    assert len(caplog.records) == 1
    assert "experts of many tokens are slower" in caplog.text
