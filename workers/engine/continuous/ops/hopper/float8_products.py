"""The consumers in float8: products of 128 values are scaled and added up in float32.

A tile has 128 columns, since two sets of sums take a consumer's registers: what the tensor cores add up within a stage,
and what is added up of that. A stage is as deep as a block with a scale.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from workers.engine.continuous.ops.hopper.consumer import await_tile, gated, pass_over, store
from workers.engine.continuous.ops.hopper.tiles import CONSUMERS, ROWS, next_stage

#: columns of a tile: of gate and up, half each
COLUMNS = gl.constexpr(128)
WIDE = gl.constexpr(64)
#: depth of a stage, and stages
DEPTH = gl.constexpr(128)
STAGES = gl.constexpr(5)


@gluon.jit
def _halves(made):
    """Split (64, 128) into its left and its right columns."""
    return gl.split(made.reshape([ROWS, 2, WIDE]).permute([0, 2, 1]))


@gluon.jit
def _multiply(
    a, b, full, empty, stage, phase, x_scales, places, inside, step, first, second,
    WHICH: gl.constexpr, STEPS: gl.constexpr, GATHER: gl.constexpr,
):  # fmt: skip
    """Return the sums of both halves of the columns, which have scales of their own."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 32])
    nothing = gl.zeros([ROWS, COLUMNS], dtype=gl.float32, layout=mma)
    one, two = _halves(nothing)
    kind: gl.constexpr = gl.SliceLayout(1, one.type.layout)
    for k in range(0, STEPS):
        scale = gl.load(x_scales + places + k * step, mask=inside, other=0.0)
        one_scale = gl.convert_layout(scale * gl.load(first + k), kind, assert_trivial=True)
        two_scale = gl.convert_layout(scale * gl.load(second + k), kind, assert_trivial=True)
        mbarrier.wait(full.index(stage), phase)
        if GATHER:
            # what threads have copied, the tensor cores read otherwise than threads do
            fence_async_shared()
        weights = b.index(stage).permute((1, 0))
        made = warpgroup_mma(a.index(stage * CONSUMERS + WHICH), weights, nothing, use_acc=False, is_async=True)
        made = warpgroup_mma_wait(0, deps=[made])
        mbarrier.arrive(empty.index(stage), count=1)
        left, right = _halves(made)
        one += left * one_scale[:, None]
        two += right * two_scale[:, None]
        stage, phase = next_stage(stage, phase, STAGES)
    return one, two, stage, phase


@gluon.jit
def consume_float8(
    out, a, b, notes, full, empty, pairs, x_scales, scales, step,
    WHICH: gl.constexpr, WIDTH: gl.constexpr, HALF: gl.constexpr, SIZE: gl.constexpr, COUNT: gl.constexpr,
    GATHER: gl.constexpr,
):  # fmt: skip
    """Multiply and store the lines of consumer WHICH of each tile; `out` is SIZE wide.

    `scales` has the weights' (rows / 128, WIDTH / 128); `x_scales` the tokens' (T, WIDTH / 128) with GATHER, else the
    lines' (WIDTH / 128, `step`).
    """
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 32])
    kind: gl.constexpr = out.dtype.element_ty
    flat: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
    # two pieces that are copied apart are one of all columns
    b = b._reinterpret(b.dtype, [STAGES, COLUMNS, DEPTH], flat)
    groups: gl.constexpr = WIDTH // DEPTH
    line: gl.constexpr = WHICH * ROWS
    own = line + gl.arange(0, ROWS, layout=gl.SliceLayout(1, mma))
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    packed, start, block = await_tile(notes, full, stage, phase)
    while packed > 0:
        lines, column = packed & 255, packed >> 8
        if lines > line:
            inside = own < lines
            places = gl.load(pairs + start + own, mask=inside, other=0) // COUNT * groups if GATHER else start + own
            first = scales + block * groups
            second = first + HALF // DEPTH * groups
            one, two, stage, phase = _multiply(
                a, b, full, empty, stage, phase, x_scales, places, inside, step, first, second, WHICH, groups, GATHER
            )
            if HALF > 0:
                store(out, gated(one, two, kind), start, line, lines, column * WIDE, SIZE, WIDE)
            else:
                store(out, one.to(kind), start, line, lines, column * COLUMNS, SIZE, WIDE)
                store(out, two.to(kind), start, line, lines, column * COLUMNS + WIDE, SIZE, WIDE)
        else:
            stage, phase = pass_over(full, empty, stage, phase, groups, STAGES)
        packed, start, block = await_tile(notes, full, stage, phase)
