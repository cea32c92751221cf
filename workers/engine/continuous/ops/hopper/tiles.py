"""The producer: which tiles a program makes, and the copies of their lines and weights into shared memory."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, mbarrier, tma

#: lines of a consumer (a wgmma's), consumers, and lines of a tile
ROWS = gl.constexpr(64)
CONSUMERS = gl.constexpr(3)
LINES = gl.constexpr(192)
#: bytes of a line or of a row of weights in a stage, which is as wide as shared memory's swizzle
SWIZZLE = gl.constexpr(128)
#: notes of a tile: its first line; 256 * column + lines; the row of its weights' scales
NOTES = gl.constexpr(3)


@gluon.jit
def next_stage(stage, phase, STAGES: gl.constexpr):
    stage += 1
    phase = gl.where(stage == STAGES, phase ^ 1, phase)
    stage = gl.where(stage == STAGES, 0, stage)
    return stage, phase


@gluon.jit
def _draw_tile(
    drawn, spans, blocks, total,
    HALF: gl.constexpr, TILES: gl.constexpr, EXPERTS: gl.constexpr, COLUMNS: gl.constexpr,
):  # fmt: skip
    """Return the next tile that has an expert; its first line; 256 * column + lines; its first row of weights.

    Behind the last tile (`total` or more), the others say nothing.
    """
    tile = gl.atomic_add(drawn, 1, sem="relaxed")
    expert = gl.load(blocks + tile // TILES, mask=tile < total, other=0)
    while expert == EXPERTS:
        tile = gl.atomic_add(drawn, 1, sem="relaxed")
        expert = gl.load(blocks + tile // TILES, mask=tile < total, other=0)
    begin = gl.load(spans + expert)
    last = gl.load(spans + EXPERTS + expert)
    own = tile - gl.load(spans + 2 * EXPERTS + expert) * TILES
    count = gl.maximum((last - begin + LINES - 1) // LINES, 1)
    # an expert's blocks are as even as consumers' lines allow
    most = ((last - begin + ROWS - 1) // ROWS + count - 1) // count * ROWS
    start = begin + (own % count) * most
    column = own // count
    lines = gl.minimum(last - start, most)
    first = expert * (2 * HALF) + column * (COLUMNS // 2) if HALF > 0 else (expert * TILES + column) * COLUMNS
    return tile, start, column * 256 + lines, first


@gluon.jit
def _find_tokens(pairs, start, lines, places, WIDTH: gl.constexpr, COUNT: gl.constexpr):
    """Note in shared memory where each line's token begins, or -1: the producer has too few registers."""
    line = gl.arange(0, ROWS, layout=gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    for n in gl.static_range(CONSUMERS):
        at = line + n * ROWS
        pair = gl.load(pairs + start + at, mask=at < lines, other=-1)
        places.index(n).store(gl.where(pair >= 0, pair // COUNT * WIDTH, -1))


@gluon.jit
def _copy_tokens(rows, places, a, stage, ready, DEPTH: gl.constexpr):
    # 16 bytes a thread
    layout: gl.constexpr = gl.BlockedLayout([1, DEPTH // 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    depth = gl.arange(0, DEPTH, layout=gl.SliceLayout(0, layout))
    for n in gl.static_range(CONSUMERS):
        place = gl.multiple_of(places.index(n).load(gl.SliceLayout(1, layout)), [DEPTH])
        source = rows + (place[:, None] + depth[None, :])
        async_copy.async_copy_global_to_shared(a.index(stage * CONSUMERS + n), source, mask=(place >= 0)[:, None])
    async_copy.mbarrier_arrive(ready, increment_count=False)


@gluon.jit
def _copy_lines(rows, start, lines, k, a, stage, ready):
    for n in gl.static_range(CONSUMERS):
        piece = a.index(stage * CONSUMERS + n)
        tma.async_copy_global_to_shared(rows, [start + n * ROWS, k], ready, piece, pred=lines > n * ROWS)


@gluon.jit
def _expect(ready, lines, GATHER: gl.constexpr, COLUMNS: gl.constexpr):
    """Say how many bytes the tensor memory accelerator will copy into a stage."""
    if GATHER:
        mbarrier.expect(ready, COLUMNS * SWIZZLE)
    elif lines > 2 * ROWS:
        mbarrier.expect(ready, (COLUMNS + 3 * ROWS) * SWIZZLE)
    elif lines > ROWS:
        mbarrier.expect(ready, (COLUMNS + 2 * ROWS) * SWIZZLE)
    else:
        mbarrier.expect(ready, (COLUMNS + ROWS) * SWIZZLE)


@gluon.jit
def produce(
    rows, weights, pairs, spans, blocks, drawn, total, a, b, notes, places, full, empty,
    WIDTH: gl.constexpr, HALF: gl.constexpr, TILES: gl.constexpr, EXPERTS: gl.constexpr, COUNT: gl.constexpr,
    GATHER: gl.constexpr, DEPTH: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the tiles that it draws, depth by depth, and hand consumers a tile's place with its first stage."""
    one: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    tile, start, packed, first = _draw_tile(drawn, spans, blocks, total, HALF, TILES, EXPERTS, COLUMNS)
    while tile < total:
        lines = packed & 255
        second = first + (HALF if HALF > 0 else COLUMNS // 2)
        ahead, ahead_start, ahead_packed, ahead_first = tile, start, packed, first
        if GATHER:
            _find_tokens(pairs, start, lines, places, WIDTH, COUNT)
        for k in range(0, WIDTH, DEPTH):
            mbarrier.wait(empty.index(stage), phase)
            ready = full.index(stage)
            if k == 0:
                notes.index(NOTES * stage).store(gl.full([1], start, gl.int32, layout=one))
                notes.index(NOTES * stage + 1).store(gl.full([1], packed, gl.int32, layout=one))
                notes.index(NOTES * stage + 2).store(gl.full([1], first // 128, gl.int32, layout=one))
            _expect(ready, lines, GATHER, COLUMNS)
            tma.async_copy_global_to_shared(weights, [first // 32, 0, 0, 0, k], ready, b.index(2 * stage))
            tma.async_copy_global_to_shared(weights, [second // 32, 0, 0, 0, k], ready, b.index(2 * stage + 1))
            if GATHER:
                _copy_tokens(rows + k, places, a, stage, ready, DEPTH)
            else:
                _copy_lines(rows, start, lines, k, a, stage, ready)
            stage, phase = next_stage(stage, phase, STAGES)
            # in the middle of a tile, where stages are ahead and nobody waits for these loads
            if k == WIDTH // DEPTH // 2 * DEPTH:
                ahead, ahead_start, ahead_packed, ahead_first = _draw_tile(
                    drawn, spans, blocks, total, HALF, TILES, EXPERTS, COLUMNS
                )
        tile, start, packed, first = ahead, ahead_start, ahead_packed, ahead_first
    mbarrier.wait(empty.index(stage), phase)
    # no lines: the end
    notes.index(NOTES * stage + 1).store(gl.full([1], 0, gl.int32, layout=one))
    mbarrier.expect(full.index(stage), 0)
    if GATHER:
        async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
