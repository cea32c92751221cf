"""`grouped_experts` in float8: tokens quantized per 128 columns, weights per block of 128 x 128.

Products of 128 values are summed by the tensor cores, scaled, and added up in float32 (DeepSeek-V3 Technical Report,
2024, section 3.3).
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix
from workers.engine.continuous.ops.expert_order import Order, order_of
from workers.engine.continuous.ops.grouped_experts import Tile, block_of
from workers.engine.continuous.ops.quantize import GROUP, quantize

#: an expert's pairs in a block, and the tiles as `grouped_experts` has them: the fastest of 15 from 192 to 4096 tokens;
#: an iteration is as deep as a block with a scale
_LINES, _GATE_UP, _DOWN = 64, Tile(64, FLOAT8_BLOCK, 4, 4), Tile(128, FLOAT8_BLOCK, 4, 3)


@triton.jit
def _gate_up_kernel(
    x, x_scales, weights, scales, order, spans, blocks, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, EXPERTS: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of the pairs in the experts' order; `x_scales` (T, WIDTH / 128)."""
    expert, begin, last, own = block_of(spans, blocks, INNER // COLUMNS, EXPERTS)
    if expert < EXPERTS:
        groups: tl.constexpr = WIDTH // GROUP
        count = tl.cdiv(last - begin, LINES)
        line = begin + (own % count) * LINES + tl.arange(0, LINES)
        inside = line < last
        first = own // count * COLUMNS
        token = tl.load(order + line, mask=inside, other=0) // COUNT
        inputs = x + token.to(tl.int64)[:, None] * WIDTH + tl.arange(0, GROUP)[None, :]
        token_scales = x_scales + token * groups
        gates = expert * (2 * INNER) + first
        scales += (expert * (2 * INNER // GROUP) + first // GROUP) * groups
        gate = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
        up = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
        for n in range(0, groups):
            scale = tl.load(token_scales + n, mask=inside, other=0.0)
            gate_scale, up_scale = tl.load(scales + n), tl.load(scales + (INNER // GROUP) * groups + n)
            # all lines without a pair would load the same row, at a third of the speed
            value = tl.load(inputs + n * GROUP, mask=inside[:, None], other=0.0)
            gate += tl.dot(value, weights.load([gates, n * GROUP]).T) * (scale * gate_scale)[:, None]
            up += tl.dot(value, weights.load([gates + INNER, n * GROUP]).T) * (scale * up_scale)[:, None]
        # rounded as the separate operations round
        kind = out.dtype.element_ty
        gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
        made = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32) * up
        row = out + line.to(tl.int64)[:, None] * INNER + first
        tl.store(row + tl.arange(0, COLUMNS)[None, :], made.to(kind), mask=inside[:, None])


# by value, each number of pairs that is a multiple of 16 would be compiled on its own
@triton.jit(do_not_specialize=["pairs"])
def _down_kernel(
    x, x_scales, weights, scales, spans, blocks, out, pairs,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Multiply by the down weights, from `INNER` to `WIDTH`; input and output in the experts' order.

    `x_scales` (INNER / 128, pairs).
    """
    expert, begin, last, own = block_of(spans, blocks, WIDTH // COLUMNS, EXPERTS)
    if expert < EXPERTS:
        groups: tl.constexpr = INNER // GROUP
        count = tl.cdiv(last - begin, LINES)
        start = begin + (own % count) * LINES
        first = (own // count) * COLUMNS
        line = start + tl.arange(0, LINES)
        inside = line < last
        scales += (expert * (WIDTH // GROUP) + first // GROUP) * groups
        made = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
        for n in range(0, groups):
            scale = tl.load(x_scales + n * pairs + line, mask=inside, other=0.0) * tl.load(scales + n)
            weight = weights.load([expert * WIDTH + first, n * GROUP])
            made += tl.dot(x.load([start, n * GROUP]), weight.T) * scale[:, None]
        column = first + tl.arange(0, COLUMNS)
        row = out + line.to(tl.int64)[:, None] * WIDTH
        tl.store(row + column[None, :], made.to(out.dtype.element_ty), mask=inside[:, None])


def float8_grouped_experts(
    x: Tensor, chosen: Tensor, gate_up: Float8Matrix, down: Float8Matrix
) -> tuple[Tensor, Tensor]:
    """Return each pair's output (pairs, H) in the experts' order, and each pair's place in it (T, k)."""
    number, width, inner = down.values.shape
    order = order_of(chosen, number, _LINES)
    gated, made = x.new_empty(chosen.numel(), inner), x.new_empty(chosen.numel(), width)
    _float8_gate_up(*quantize(x), gate_up, order, gated)
    _float8_down(*quantize(gated, by_group=True), down, order, made)
    return made, order.places


def _float8_gate_up(x: Tensor, x_scales: Tensor, weights: Float8Matrix, order: Order, out: Tensor) -> None:
    experts, inner, width = len(weights.values), weights.values.shape[1] // 2, x.shape[-1]
    _gate_up_kernel[(len(order.blocks) * (inner // _GATE_UP.columns),)](
        x, x_scales, _rows(weights.values.flatten(0, 1), _GATE_UP.columns), weights.scales,
        order.pairs, order.spans, order.blocks, out,
        WIDTH=width, INNER=inner, COUNT=order.places.shape[1], EXPERTS=experts,
        LINES=order.lines, COLUMNS=_GATE_UP.columns, num_warps=_GATE_UP.warps, num_stages=_GATE_UP.stages,
    )  # fmt: skip


def _float8_down(x: Tensor, x_scales: Tensor, weights: Float8Matrix, order: Order, out: Tensor) -> None:
    experts, width, inner = weights.values.shape
    _down_kernel[(len(order.blocks) * (width // _DOWN.columns),)](
        _rows(x, order.lines), x_scales, _rows(weights.values.flatten(0, 1), _DOWN.columns), weights.scales,
        order.spans, order.blocks, out, len(out),
        WIDTH=width, INNER=inner, EXPERTS=experts,
        LINES=order.lines, COLUMNS=_DOWN.columns, num_warps=_DOWN.warps, num_stages=_DOWN.stages,
    )  # fmt: skip


def _rows(matrix: Tensor, rows: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, FLOAT8_BLOCK])
