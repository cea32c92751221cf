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

from workers.engine.continuous.ops.expert_order import Order, order_of
from workers.engine.continuous.ops.hopper.products import WIDE, consume
from workers.engine.continuous.ops.hopper.tiles import COLUMNS, CONSUMERS, DEPTH, LINES, ROWS, STAGES, produce

_FLAT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
_SPREAD = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=5)


@gluon.jit(do_not_specialize=["total"])
def _kernel(
    rows, weights, pairs, spans, blocks, drawn, out, total,
    WIDTH: gl.constexpr, HALF: gl.constexpr, SIZE: gl.constexpr, TILES: gl.constexpr, EXPERTS: gl.constexpr,
    COUNT: gl.constexpr, GATHER: gl.constexpr, WARPS: gl.constexpr, FLAT: gl.constexpr, SPREAD: gl.constexpr,
    REGISTERS: gl.constexpr,
):  # fmt: skip
    """Multiply lines, WIDTH wide, by the experts' weights; `out` is SIZE wide.

    Programs draw their tiles from the counter `drawn`. With HALF, `out` is silu(gate) * up, and up's weights lie HALF
    rows behind gate's. With GATHER, `rows` has tokens that lines are found in by `pairs`; else it describes lines.
    """
    kind: gl.constexpr = out.dtype.element_ty
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    a = gl.allocate_shared_memory(kind, [STAGES * CONSUMERS, ROWS, DEPTH], FLAT)
    b = gl.allocate_shared_memory(kind, [STAGES * 2, 4, 4, 4, 2, DEPTH], SPREAD)
    notes = gl.allocate_shared_memory(gl.int32, [2 * STAGES, 1], plain)
    places = gl.allocate_shared_memory(gl.int32, [CONSUMERS, ROWS], plain)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for n in gl.static_range(STAGES):
        # threads that copy tokens arrive one by one
        mbarrier.init(full.index(n), count=1 + 32 * WARPS if GATHER else 1)
        mbarrier.init(empty.index(n), count=CONSUMERS)
    gl.warp_specialize([
        (consume, (out, a, b, notes, full, empty, 0, WIDTH, HALF, SIZE, GATHER)),
        (consume, (out, a, b, notes, full, empty, 1, WIDTH, HALF, SIZE, GATHER)),
        (consume, (out, a, b, notes, full, empty, 2, WIDTH, HALF, SIZE, GATHER)),
        (produce, (
            rows, weights, pairs, spans, blocks, drawn, total, a, b, notes, places, full, empty,
            WIDTH, HALF, TILES, EXPERTS, COUNT, GATHER,
        )),
    ], [4, 4, WARPS], [160, 160, REGISTERS])  # fmt: skip


def hopper_experts(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Do what `grouped_experts` does, where `hopper_experts_for` returns it."""
    number, width, inner = down.shape
    order = order_of(chosen, number, LINES.value)
    gated, made = x.new_empty(chosen.numel(), inner), x.new_empty(chosen.numel(), width)
    _launch(x.contiguous(), gate_up, order, order.drawn[0], gated, inner)
    lines = TensorDescriptor(gated, list(gated.shape), [inner, 1], [ROWS.value, DEPTH.value], _FLAT)
    _launch(lines, down, order, order.drawn[1], made, 0)
    return made, order.places


def _launch(
    rows: Tensor | TensorDescriptor, weights: Tensor, order: Order, drawn: Tensor, out: Tensor, half: int
) -> None:
    gather = isinstance(rows, Tensor)
    experts, columns, width = weights.shape
    tiles = columns // COLUMNS.value
    # 65,536 registers are 512 threads' of 128 each; producers that copy tokens are four warps, of tiles one
    warps, registers = (4, 32) if gather else (1, 24)
    _kernel[(torch.cuda.get_device_properties(out.device).multi_processor_count,)](
        rows, _spread(weights.flatten(0, 1)), order.pairs, order.spans, order.blocks, drawn, out,
        len(order.blocks) * tiles,
        WIDTH=width, HALF=half, SIZE=out.shape[1], TILES=tiles, EXPERTS=experts, COUNT=order.places.shape[1],
        GATHER=gather, WARPS=warps, FLAT=_FLAT, SPREAD=_SPREAD, REGISTERS=registers, num_warps=4, maxnreg=128,
    )  # fmt: skip


def _spread(weights: Tensor) -> TensorDescriptor:
    """Describe tiles of 128 rows, of each 32 in the order 0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11 and so on.

    A thread has columns 0, 1, 8, 9, 16, 17, 24, 25 (and so on) of a product, which so are 8 neighbouring ones.
    """
    rows, depth = weights.shape
    strides = [32 * depth, 2 * depth, 8 * depth, depth, 1]
    tile = [WIDE.value // 32, 4, 4, 2, DEPTH.value]
    return TensorDescriptor(weights, [rows // 32, 4, 4, 2, depth], strides, tile, _SPREAD)
