"""Products in float8: those of 128 values are scaled and added up in float32.

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

from workers.engine.continuous.ops.hopper.tiles import CONSUMERS, ROWS, next_stage

#: columns of a tile: of gate and up, half each
COLUMNS = gl.constexpr(128)
#: depth of a stage, and stages
DEPTH = gl.constexpr(128)
STAGES = gl.constexpr(5)


@gluon.jit
def _halves(made):
    """Split (64, 128) into its left and its right columns."""
    return gl.split(made.reshape([ROWS, 2, COLUMNS // 2]).permute([0, 2, 1]))


@gluon.jit
def multiply_float8(
    a, b, full, empty, stage, phase, pairs, x_scales, scales, group_stride, start, lines, scale_row,
    WHICH: gl.constexpr, WIDTH: gl.constexpr, HALF: gl.constexpr, COUNT: gl.constexpr, GATHER: gl.constexpr,
):  # fmt: skip
    """Return a consumer's products with both halves of a tile's columns, which may have scales of their own.

    `scales` has the weights' (rows / 128, WIDTH / 128), the tile's in row `scale_row` and with HALF so much behind it;
    `x_scales` the tokens' (T, WIDTH / 128) with GATHER, else the lines' (WIDTH / 128, `group_stride`).
    """
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 32])
    flat: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
    groups: gl.constexpr = WIDTH // DEPTH
    own = WHICH * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, mma))
    inside = own < lines
    places = gl.load(pairs + start + own, mask=inside, other=0) // COUNT * groups if GATHER else start + own
    first = scales + scale_row * groups
    second = first + HALF // DEPTH * groups
    # two pieces that are copied apart are one of all columns
    whole = b._reinterpret(b.dtype, [STAGES, COLUMNS, DEPTH], flat)
    nothing = gl.zeros([ROWS, COLUMNS], dtype=gl.float32, layout=mma)
    one, two = _halves(nothing)
    scale_layout: gl.constexpr = gl.SliceLayout(1, one.type.layout)
    for k in range(0, groups):
        scale = gl.load(x_scales + places + k * group_stride, mask=inside, other=0.0)
        one_scale = gl.convert_layout(scale * gl.load(first + k), scale_layout, assert_trivial=True)
        two_scale = gl.convert_layout(scale * gl.load(second + k), scale_layout, assert_trivial=True)
        mbarrier.wait(full.index(stage), phase)
        if GATHER:
            # what threads have copied, the tensor cores read otherwise than threads do
            fence_async_shared()
        weights = whole.index(stage).permute((1, 0))
        made = warpgroup_mma(a.index(stage * CONSUMERS + WHICH), weights, nothing, use_acc=False, is_async=True)
        made = warpgroup_mma_wait(0, deps=[made])
        mbarrier.arrive(empty.index(stage), count=1)
        left, right = _halves(made)
        one += left * one_scale[:, None]
        two += right * two_scale[:, None]
        stage, phase = next_stage(stage, phase, STAGES)
    return one, two, stage, phase
