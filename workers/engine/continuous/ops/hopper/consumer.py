"""The consumers: products of the lines and weights that the producer has copied, and what is stored of them."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from workers.engine.continuous.ops.hopper.float8_products import multiply_float8
from workers.engine.continuous.ops.hopper.products import multiply
from workers.engine.continuous.ops.hopper.tiles import NOTES, ROWS, next_stage


@gluon.jit
def consume(
    out, a, b, notes, full, empty, pairs, x_scales, scales, group_stride,
    WHICH: gl.constexpr, WIDTH: gl.constexpr, HALF: gl.constexpr, SIZE: gl.constexpr, COUNT: gl.constexpr,
    GATHER: gl.constexpr, FLOAT8: gl.constexpr, DEPTH: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Multiply and store the lines of consumer WHICH of each tile; `out` is SIZE wide."""
    kind: gl.constexpr = out.dtype.element_ty
    line: gl.constexpr = WHICH * ROWS
    wide: gl.constexpr = COLUMNS // 2
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    packed, start, scale_row = _await_tile(notes, full, stage, phase)
    while packed > 0:
        lines, column = packed & 255, packed >> 8
        if lines > line:
            if FLOAT8:
                one, two, stage, phase = multiply_float8(
                    a, b, full, empty, stage, phase, pairs, x_scales, scales, group_stride, start, lines, scale_row,
                    WHICH, WIDTH, HALF, COUNT, GATHER,
                )  # fmt: skip
            else:
                one, two, stage, phase = multiply(a, b, full, empty, stage, phase, WHICH, WIDTH, GATHER)
            if HALF > 0:
                _store(out, _gated(one, two, kind), start, line, lines, column * wide, SIZE, wide)
            else:
                _store(out, one.to(kind), start, line, lines, column * COLUMNS, SIZE, wide)
                _store(out, two.to(kind), start, line, lines, column * COLUMNS + wide, SIZE, wide)
        else:
            stage, phase = _pass_over(full, empty, stage, phase, WIDTH // DEPTH, STAGES)
        packed, start, scale_row = _await_tile(notes, full, stage, phase)


@gluon.jit
def _await_tile(notes, full, stage, phase):
    """Wait for a tile's first stage; return 256 * column + lines (0: no more), its first line, its scales' row."""
    mbarrier.wait(full.index(stage), phase)
    return _note(notes, NOTES * stage + 1), _note(notes, NOTES * stage), _note(notes, NOTES * stage + 2)


@gluon.jit
def _note(notes, at):
    return gl.max(notes.index(at).load(gl.BlockedLayout([1], [32], [4], [0])), axis=0)


@gluon.jit
def _pass_over(full, empty, stage, phase, STEPS: gl.constexpr, STAGES: gl.constexpr):
    """Release the stages of a tile."""
    for _ in range(0, STEPS):
        mbarrier.wait(full.index(stage), phase)
        mbarrier.arrive(empty.index(stage), count=1)
        stage, phase = next_stage(stage, phase, STAGES)
    return stage, phase


@gluon.jit
def _gated(gate, up, kind: gl.constexpr):
    """Return silu(gate) * up, rounded as the separate operations round."""
    gate, up = gate.to(kind).to(gl.float32), up.to(kind).to(gl.float32)
    made = (gate * (1.0 / (1.0 + gl.exp(-gate)))).to(kind).to(gl.float32) * up
    return made.to(kind)


@gluon.constexpr_function
def _stored_layout(wide):
    """Lines and columns of a consumer's threads, of which each has 8 neighbouring columns, which is a store's width."""
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], [0, 32], *([[0, 64]] if wide == 128 else []), [8, 0]],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, wide],
    )


@gluon.jit
def _store(out, made, start, line, lines, column, SIZE: gl.constexpr, WIDE: gl.constexpr):
    """Store a product, 64 or 128 wide, whose columns come as `_spread` of experts.py has put them."""
    layout: gl.constexpr = _stored_layout(WIDE)
    made = made.reshape([ROWS, WIDE // 32, 4, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([ROWS, WIDE])
    made = gl.convert_layout(made, layout, assert_trivial=True)
    own = line + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    at = column + gl.arange(0, WIDE, layout=gl.SliceLayout(0, layout))
    row = out + (start + own).to(gl.int64)[:, None] * SIZE
    gl.store(row + at[None, :], made, mask=(own < lines)[:, None])
