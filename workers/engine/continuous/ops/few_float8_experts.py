"""`few_experts` in float8 (see `float8_grouped_experts`)."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import sys

import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix
from workers.engine.continuous.ops.expert_order import order_of
from workers.engine.continuous.ops.few_experts import Tile, expert_lines
from workers.engine.continuous.ops.quantize import GROUP, quantize

#: above this a grouped product is faster
MAX_TOKENS = 384

#: as `few_experts` has them; an iteration is as deep as a block with a scale
_TILES = (
    (192, (Tile(16, 64, FLOAT8_BLOCK, 4, 4), Tile(16, 128, FLOAT8_BLOCK, 4, 3))),
    (sys.maxsize, (Tile(32, 128, FLOAT8_BLOCK, 4, 3), Tile(32, 128, FLOAT8_BLOCK, 4, 3))),
)


@triton.jit
def _gate_up_kernel(
    x, x_scales, weights, scales, ends, order, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, EXPERTS: tl.constexpr, BINS: tl.constexpr,
    ROWS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of the pairs, in the experts' order; `x_scales` (T, WIDTH / 128)."""
    expert, first, last = expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
    if expert < EXPERTS:
        groups: tl.constexpr = WIDTH // GROUP
        line = first + tl.arange(0, LINES)
        token = tl.load(order + line, mask=line < last, other=0) // COUNT
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        depth = tl.arange(0, GROUP)
        gates = weights + expert.to(tl.int64) * (2 * INNER * WIDTH) + row[:, None] * WIDTH + depth[None, :]
        ups = gates + INNER * WIDTH
        scales += (expert * (2 * INNER // GROUP) + tl.program_id(0) * ROWS // GROUP) * groups
        inputs = x + token[None, :] * WIDTH + depth[:, None]
        gate = tl.zeros([ROWS, LINES], dtype=tl.float32)
        up = tl.zeros([ROWS, LINES], dtype=tl.float32)
        for n in range(0, groups):
            gate_scale, up_scale = tl.load(scales + n), tl.load(scales + (INNER // GROUP) * groups + n)
            value = tl.load(inputs + n * GROUP, mask=(line < last)[None, :], other=0.0)
            scale = tl.load(x_scales + token * groups + n)
            gate += tl.dot(tl.load(gates + n * GROUP), value) * (scale * gate_scale)[None, :]
            up += tl.dot(tl.load(ups + n * GROUP), value) * (scale * up_scale)[None, :]
        # rounded as the separate operations round
        kind = out.dtype.element_ty
        gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
        made = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32) * up
        tl.store(out + line[None, :] * INNER + row[:, None], made.to(kind), mask=(line < last)[None, :])


@triton.jit
def _down_kernel(
    x, x_scales, weights, scales, ends, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, BINS: tl.constexpr,
    ROWS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Multiply by the down weights, from `INNER` to `WIDTH`; input and output in the experts' order."""
    expert, first, last = expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
    if expert < EXPERTS:
        groups: tl.constexpr = INNER // GROUP
        line = first + tl.arange(0, LINES)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        depth = tl.arange(0, GROUP)
        inside = (line < last)[None, :]
        downs = weights + expert.to(tl.int64) * (WIDTH * INNER) + row[:, None] * INNER + depth[None, :]
        scales += (expert * (WIDTH // GROUP) + tl.program_id(0) * ROWS // GROUP) * groups
        inputs = x + line[None, :] * INNER + depth[:, None]
        made = tl.zeros([ROWS, LINES], dtype=tl.float32)
        for n in range(0, groups):
            value = tl.load(inputs + n * GROUP, mask=inside, other=0.0)
            scale = tl.load(x_scales + line * groups + n, mask=line < last, other=0.0) * tl.load(scales + n)
            made += tl.dot(tl.load(downs + n * GROUP), value) * scale[None, :]
        tl.store(out + line[None, :] * WIDTH + row[:, None], made.to(out.dtype.element_ty), mask=inside)


def few_float8_experts(x: Tensor, chosen: Tensor, gate_up: Float8Matrix, down: Float8Matrix) -> tuple[Tensor, Tensor]:
    """Return each pair's output (pairs, H) in the experts' order, and each pair's place in it (T, k)."""
    tokens, count = chosen.shape
    pairs, width, (number, _, inner) = tokens * count, x.shape[-1], down.values.shape
    first, second = next(tiles for most, tiles in _TILES if tokens <= most)
    order = order_of(chosen, number, first.lines)
    blocks = min(pairs, number + pairs // first.lines)
    gated, made = x.new_empty(pairs, inner), x.new_empty(pairs, width)
    shape = {"WIDTH": width, "INNER": inner, "EXPERTS": number, "BINS": triton.next_power_of_2(number + 1)}
    _gate_up_kernel[(inner // first.rows, blocks)](
        *quantize(x), gate_up.values, gate_up.scales, order.spans[1], order.pairs, gated,
        COUNT=count, ROWS=first.rows, LINES=first.lines, **shape, num_warps=first.warps, num_stages=first.stages,
    )  # fmt: skip
    _down_kernel[(width // second.rows, blocks)](
        *quantize(gated), down.values, down.scales, order.spans[1], made,
        ROWS=second.rows, LINES=second.lines, **shape, num_warps=second.warps, num_stages=second.stages,
    )  # fmt: skip
    return made, order.places
