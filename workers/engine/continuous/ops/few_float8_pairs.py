"""`few_pairs` in float8: the products round their inputs as `quantize` does, for each token and 128 columns."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import Float8Matrix
from workers.engine.continuous.ops.early_launch import await_inputs, await_inputs_alone, early
from workers.engine.continuous.ops.few_pairs import MAX_WIDTH, Tile
from workers.engine.continuous.ops.quantize import GROUP, rounded_and_scaled

#: with two tokens, sorted pairs that share an expert's weights are as fast
MAX_TOKENS = 1

#: more rows than in `few_pairs`, as they share the rounding of an input; all of a program's are in a block with a scale
_GATE_UP = Tile(8, 4)
_DOWN = Tile(16, 16)

#: the most values of a token's pairs between the products: with more, ptxas finds too few registers for `_DOWN`
_MAX_BETWEEN = 8192


@triton.jit
def _gate_up_kernel(
    x, weights, scales, chosen, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of a pair."""
    pair = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    group = tl.arange(0, BLOCK // GROUP)
    groups: tl.constexpr = WIDTH // GROUP
    # the next kernel reads `chosen` before it waits
    await_inputs_alone(EARLY)
    expert = tl.load(chosen + pair).to(tl.int64)
    gates = weights + expert * (2 * INNER * WIDTH) + row[:, None] * WIDTH + at[None, :]
    inside = (at < WIDTH)[None, :]
    gate = tl.load(gates, mask=inside, other=0.0)
    up = tl.load(gates + INNER * WIDTH, mask=inside, other=0.0)
    scales += (expert * (2 * INNER // GROUP) + tl.program_id(1) * ROWS // GROUP) * groups
    gate_scales = tl.load(scales + group, mask=group < groups, other=0.0)
    up_scales = tl.load(scales + INNER // GROUP * groups + group, mask=group < groups, other=0.0)
    value = tl.load(x + pair // COUNT * WIDTH + at, mask=at < WIDTH, other=0.0)
    kind = value.dtype
    wide = tl.reshape(value.to(tl.float32), [BLOCK // GROUP, GROUP])
    for_gate = tl.reshape(rounded_and_scaled(wide, gate_scales, gate.dtype), [1, BLOCK])
    for_up = tl.reshape(rounded_and_scaled(wide, up_scales, gate.dtype), [1, BLOCK])
    # rounded as the separate operations round
    gated = tl.sum(gate.to(tl.float32) * for_gate, axis=1).to(kind).to(tl.float32)
    upped = tl.sum(up.to(tl.float32) * for_up, axis=1).to(kind).to(tl.float32)
    made = (gated * tl.sigmoid(gated)).to(kind).to(tl.float32) * upped
    tl.store(out + pair * INNER + row, made.to(kind))


@triton.jit
def _down_kernel(
    x, weights, scales, chosen, shares, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, CHOICES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Multiply a token's pairs by the down weights, and add them up weighted by `shares`."""
    token = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    choice = tl.arange(0, CHOICES)
    at = tl.arange(0, BLOCK)
    group = tl.arange(0, BLOCK // GROUP)
    groups: tl.constexpr = INNER // GROUP
    present = choice < COUNT
    expert = tl.load(chosen + token * COUNT + choice, mask=present, other=0).to(tl.int64)
    share = tl.load(shares + token * COUNT + choice, mask=present, other=0.0).to(tl.float32)
    downs = weights + expert[:, None, None] * (WIDTH * INNER) + row[None, :, None] * INNER + at[None, None, :]
    down = tl.load(downs, mask=present[:, None, None] & (at < INNER)[None, None, :], other=0.0)
    blocks = expert * (WIDTH // GROUP) + tl.program_id(1) * ROWS // GROUP
    inside = present[:, None] & (group < groups)[None, :]
    weight_scales = tl.load(scales + blocks[:, None] * groups + group[None, :], mask=inside, other=0.0)
    await_inputs(EARLY)
    inputs = x + (token * COUNT + choice)[:, None] * INNER + at[None, :]
    wide = tl.load(inputs, mask=present[:, None] & (at < INNER)[None, :], other=0.0).to(tl.float32)
    wide = rounded_and_scaled(tl.reshape(wide, [CHOICES, BLOCK // GROUP, GROUP]), weight_scales, down.dtype)
    made = tl.sum(down.to(tl.float32) * tl.reshape(wide, [CHOICES, 1, BLOCK]), axis=2)
    kind = out.dtype.element_ty
    # rounded as the separate operations round
    by_choice = made.to(kind).to(tl.float32)
    tl.store(out + token * WIDTH + row, tl.sum(by_choice * share[:, None], axis=0).to(kind))


def suits(x: Tensor, chosen: Tensor, down: Float8Matrix) -> bool:
    """Whether (T, H) are few tokens, and a program's registers have room for one, and for what it gives to `down`."""
    between = triton.next_power_of_2(chosen.shape[1]) * triton.next_power_of_2(down.values.shape[-1])
    return len(x) <= MAX_TOKENS and x.shape[-1] * x.element_size() <= MAX_WIDTH and between <= _MAX_BETWEEN


def few_float8_pairs(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Float8Matrix, down: Float8Matrix) -> Tensor:
    """Return (T, H), see `Ops.experts`; all sizes are multiples of 128."""
    tokens, count = chosen.shape
    width, inner = x.shape[-1], down.values.shape[-1]
    gated, out = x.new_empty(tokens * count, inner), x.new_empty(x.shape)
    shape = {"WIDTH": width, "INNER": inner, "COUNT": count}
    _gate_up_kernel[(tokens * count, inner // _GATE_UP.rows)](
        x.contiguous(), gate_up.values, gate_up.scales, chosen, gated, **shape,
        ROWS=_GATE_UP.rows, BLOCK=triton.next_power_of_2(width), num_warps=_GATE_UP.warps, **early(),
    )  # fmt: skip
    _down_kernel[(tokens, width // _DOWN.rows)](
        gated, down.values, down.scales, chosen, weights, out, **shape, CHOICES=triton.next_power_of_2(count),
        ROWS=_DOWN.rows, BLOCK=triton.next_power_of_2(inner), num_warps=_DOWN.warps, **early(),
    )  # fmt: skip
    return out
