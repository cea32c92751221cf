"""The consumers: products of the lines and weights that the producer has copied, and what is stored of them."""

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

from workers.engine.continuous.ops.hopper.tiles import COLUMNS, CONSUMERS, DEPTH, ROWS, STAGES, next_stage

#: columns of one product: ptxas finds too few registers for one that is 256 wide
WIDE = gl.constexpr(128)


@gluon.constexpr_function
def _stored_layout():
    """Lines and columns of a consumer's threads, of which each has 8 neighbouring columns, which is a store's width."""
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], [0, 32], [0, 64], [8, 0]],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 128],
    )


@gluon.jit
def _store(out, made, start, line, lines, column, SIZE: gl.constexpr):
    """Store a product, whose columns come as `_spread` of experts.py has put them."""
    layout: gl.constexpr = _stored_layout()
    made = made.reshape([ROWS, 4, 4, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([ROWS, WIDE])
    made = gl.convert_layout(made, layout, assert_trivial=True)
    own = line + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    at = column + gl.arange(0, WIDE, layout=gl.SliceLayout(0, layout))
    row = out + (start + own).to(gl.int64)[:, None] * SIZE
    gl.store(row + at[None, :], made, mask=(own < lines)[:, None])


@gluon.jit
def _release_one_before(empty, stage, pred):
    # By arithmetic. Triton 3.6 takes a name for one that a loop never changes if, after its first visit of the body, it
    # holds the value that it held before. A `before = stage` ahead of the loop and in it would be such a name, all
    # releases would go to one stage, and the producer would wait forever.
    mbarrier.arrive(empty.index(gl.where(stage == 0, STAGES - 1, stage - 1)), count=1, pred=pred)


@gluon.jit
def _multiply(a, b, full, empty, stage, phase, WHICH: gl.constexpr, STEPS: gl.constexpr, GATHER: gl.constexpr):
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDE, 16])
    one = gl.zeros([ROWS, WIDE], dtype=gl.float32, layout=mma)
    two = gl.zeros([ROWS, WIDE], dtype=gl.float32, layout=mma)
    for k in range(0, STEPS):
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
        stage, phase = next_stage(stage, phase)
    one, two = warpgroup_mma_wait(0, deps=[one, two])
    _release_one_before(empty, stage, True)
    return one, two, stage, phase


@gluon.jit
def consume(
    out, a, b, notes, full, empty,
    WHICH: gl.constexpr, WIDTH: gl.constexpr, HALF: gl.constexpr, SIZE: gl.constexpr, GATHER: gl.constexpr,
):  # fmt: skip
    """Multiply and store the lines of consumer WHICH of each tile; `out` is SIZE wide."""
    one_layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    kind: gl.constexpr = out.dtype.element_ty
    line: gl.constexpr = WHICH * ROWS
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    mbarrier.wait(full.index(stage), phase)
    packed = gl.max(notes.index(2 * stage + 1).load(one_layout), axis=0)
    start = gl.max(notes.index(2 * stage).load(one_layout), axis=0)
    while packed > 0:
        lines, column = packed & 255, packed >> 8
        if lines > line:
            one, two, stage, phase = _multiply(a, b, full, empty, stage, phase, WHICH, WIDTH // DEPTH, GATHER)
            if HALF > 0:
                # rounded as the separate operations round
                gate, up = one.to(kind).to(gl.float32), two.to(kind).to(gl.float32)
                made = (gate * (1.0 / (1.0 + gl.exp(-gate)))).to(kind).to(gl.float32) * up
                _store(out, made.to(kind), start, line, lines, column * WIDE, SIZE)
            else:
                _store(out, one.to(kind), start, line, lines, column * COLUMNS, SIZE)
                _store(out, two.to(kind), start, line, lines, column * COLUMNS + WIDE, SIZE)
        else:
            for _ in range(0, WIDTH // DEPTH):
                mbarrier.wait(full.index(stage), phase)
                mbarrier.arrive(empty.index(stage), count=1)
                stage, phase = next_stage(stage, phase)
        mbarrier.wait(full.index(stage), phase)
        packed = gl.max(notes.index(2 * stage + 1).load(one_layout), axis=0)
        start = gl.max(notes.index(2 * stage).load(one_layout), axis=0)
