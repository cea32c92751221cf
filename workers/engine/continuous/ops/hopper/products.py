"""Products with 16-bit weights."""

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

#: columns of a tile, of which each of two products has half: ptxas finds too few registers for one of 256
COLUMNS = gl.constexpr(256)
WIDE = gl.constexpr(128)
#: depth of a stage, and stages
DEPTH = gl.constexpr(64)
STAGES = gl.constexpr(4)


@gluon.jit
def _release_one_before(empty, stage, pred):
    # By arithmetic. Triton 3.6 takes a name for one that a loop never changes if, after its first visit of the body, it
    # holds the value that it held before. A `before = stage` ahead of the loop and in it would be such a name, all
    # releases would go to one stage, and the producer would wait forever.
    mbarrier.arrive(empty.index(gl.where(stage == 0, STAGES - 1, stage - 1)), count=1, pred=pred)


@gluon.jit
def multiply(a, b, full, empty, stage, phase, WHICH: gl.constexpr, WIDTH: gl.constexpr, GATHER: gl.constexpr):
    """Return a consumer's products with both halves of a tile's columns."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDE, 16])
    one = gl.zeros([ROWS, WIDE], dtype=gl.float32, layout=mma)
    two = gl.zeros([ROWS, WIDE], dtype=gl.float32, layout=mma)
    for k in range(0, WIDTH // DEPTH):
        mbarrier.wait(full.index(stage), phase)
        if GATHER:
            # what threads have copied, the tensor cores read otherwise than threads do
            fence_async_shared()
        lines = a.index(stage * CONSUMERS + WHICH)
        one_weights = b.index(2 * stage).reshape([WIDE, DEPTH]).permute((1, 0))
        two_weights = b.index(2 * stage + 1).reshape([WIDE, DEPTH]).permute((1, 0))
        one = warpgroup_mma(lines, one_weights, one, use_acc=k > 0, is_async=True)
        two = warpgroup_mma(lines, two_weights, two, use_acc=k > 0, is_async=True)
        # products of the stage before have ended; those of this one go on while the next one is awaited
        one, two = warpgroup_mma_wait(2, deps=[one, two])
        _release_one_before(empty, stage, k > 0)
        stage, phase = next_stage(stage, phase, STAGES)
    one, two = warpgroup_mma_wait(0, deps=[one, two])
    _release_one_before(empty, stage, True)
    return one, two, stage, phase
