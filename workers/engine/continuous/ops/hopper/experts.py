"""Launches the grouped products on Hopper."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from workers.engine.continuous.ops.base import Float8Matrix, Matrix, parts
from workers.engine.continuous.ops.expert_order import Order, order_of
from workers.engine.continuous.ops.hopper import float8_products, products
from workers.engine.continuous.ops.hopper.consumer import consume
from workers.engine.continuous.ops.hopper.tiles import CONSUMERS, LINES, NOTES, ROWS, SWIZZLE, produce
from workers.engine.continuous.ops.quantize import quantize


@gluon.jit(do_not_specialize=["total", "group_stride"])
def _kernel(
    rows, weights, pairs, spans, blocks, drawn, out, x_scales, scales, total, group_stride,
    WIDTH: gl.constexpr, HALF: gl.constexpr, SIZE: gl.constexpr, TILES: gl.constexpr, EXPERTS: gl.constexpr,
    COUNT: gl.constexpr, GATHER: gl.constexpr, FLOAT8: gl.constexpr, DEPTH: gl.constexpr, COLUMNS: gl.constexpr,
    STAGES: gl.constexpr, WARPS: gl.constexpr, FLAT: gl.constexpr, SPREAD: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """Multiply lines, WIDTH wide, by the experts' weights; `out` is SIZE wide.

    Programs draw their tiles from the counter `drawn`. With HALF, `out` is silu(gate) * up, and up's weights lie HALF
    rows behind gate's. With GATHER, `rows` has tokens that lines are found in by `pairs`; else it describes lines.
    """
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    a = gl.allocate_shared_memory(weights.dtype, [STAGES * CONSUMERS, ROWS, DEPTH], FLAT)
    b = gl.allocate_shared_memory(weights.dtype, [STAGES * 2, COLUMNS // 64, 4, 4, 2, DEPTH], SPREAD)
    notes = gl.allocate_shared_memory(gl.int32, [NOTES * STAGES, 1], plain)
    places = gl.allocate_shared_memory(gl.int32, [CONSUMERS, ROWS], plain)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for n in gl.static_range(STAGES):
        # threads that copy tokens arrive one by one
        mbarrier.init(full.index(n), count=1 + 32 * WARPS if GATHER else 1)
        mbarrier.init(empty.index(n), count=CONSUMERS)
    gl.warp_specialize([
        (consume, (
            out, a, b, notes, full, empty, pairs, x_scales, scales, group_stride, 0,
            WIDTH, HALF, SIZE, COUNT, GATHER, FLOAT8, DEPTH, COLUMNS, STAGES,
        )),
        (consume, (
            out, a, b, notes, full, empty, pairs, x_scales, scales, group_stride, 1,
            WIDTH, HALF, SIZE, COUNT, GATHER, FLOAT8, DEPTH, COLUMNS, STAGES,
        )),
        (consume, (
            out, a, b, notes, full, empty, pairs, x_scales, scales, group_stride, 2,
            WIDTH, HALF, SIZE, COUNT, GATHER, FLOAT8, DEPTH, COLUMNS, STAGES,
        )),
        (produce, (
            rows, weights, pairs, spans, blocks, drawn, total, a, b, notes, places, full, empty,
            WIDTH, HALF, TILES, EXPERTS, COUNT, GATHER, DEPTH, COLUMNS, STAGES,
        )),
    ], [4, 4, WARPS], [160, 160, REGISTERS])  # fmt: skip


def hopper_experts(x: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> tuple[Tensor, Tensor]:
    """Do what `grouped_experts` or `float8_grouped_experts` does, where `hopper_experts_for` returns it."""
    number, width, inner = parts(down)[0].shape
    order = order_of(chosen, number, LINES.value)
    gated, made = x.new_empty(chosen.numel(), inner), x.new_empty(chosen.numel(), width)
    if isinstance(gate_up, Float8Matrix):
        rows, row_scales = quantize(x)
        _launch(rows, row_scales, gate_up, order, order.drawn[0], gated, inner)
        lines, line_scales = quantize(gated, by_group=True)
        _launch(_flat(lines), line_scales, down, order, order.drawn[1], made, 0)
    else:
        _launch(x.contiguous(), None, gate_up, order, order.drawn[0], gated, inner)
        _launch(_flat(gated), None, down, order, order.drawn[1], made, 0)
    return made, order.places


def _launch(
    rows: Tensor | TensorDescriptor, row_scales: Tensor | None, matrix: Matrix, order: Order, drawn: Tensor,
    out: Tensor, half: int,
) -> None:  # fmt: skip
    gather = isinstance(rows, Tensor)
    weights, scales = parts(matrix)
    float8 = scales is not None
    shape = float8_products if float8 else products
    experts, columns, width = weights.shape
    tiles = columns // shape.COLUMNS.value
    # 65,536 registers are 512 threads' of 128 each; producers that copy tokens are four warps, of tiles one
    warps, registers = (4, 32) if gather else (1, 24)
    _kernel[(torch.cuda.get_device_properties(out.device).multi_processor_count,)](
        rows, _spread(weights.flatten(0, 1), shape.COLUMNS.value // 2), order.pairs, order.spans, order.blocks, drawn,
        out, row_scales, scales, len(order.blocks) * tiles, 1 if gather else len(out),
        WIDTH=width, HALF=half, SIZE=out.shape[1], TILES=tiles, EXPERTS=experts, COUNT=order.places.shape[1],
        GATHER=gather, FLOAT8=float8, DEPTH=shape.DEPTH.value, COLUMNS=shape.COLUMNS.value, STAGES=shape.STAGES.value,
        WARPS=warps, FLAT=_layout(weights, 2), SPREAD=_layout(weights, 5), REGISTERS=registers, num_warps=4,
        maxnreg=128,
    )  # fmt: skip


def _layout(matrix: Tensor, rank: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(swizzle_byte_width=SWIZZLE.value, element_bitwidth=8 * matrix.element_size(), rank=rank)


def _flat(lines: Tensor) -> TensorDescriptor:
    tile = [ROWS.value, SWIZZLE.value // lines.element_size()]
    return TensorDescriptor(lines, list(lines.shape), [lines.shape[1], 1], tile, _layout(lines, 2))


def _spread(weights: Tensor, wide: int) -> TensorDescriptor:
    """Describe tiles of `wide` rows, of each 32 in the order 0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11 and so on.

    A thread has columns 0, 1, 8, 9, 16, 17, 24, 25 (and so on) of a product, which so are 8 neighbouring ones.
    """
    rows, depth = weights.shape
    strides = [32 * depth, 2 * depth, 8 * depth, depth, 1]
    tile = [wide // 32, 4, 4, 2, SWIZZLE.value // weights.element_size()]
    return TensorDescriptor(weights, [rows // 32, 4, 4, 2, depth], strides, tile, _layout(weights, 5))
