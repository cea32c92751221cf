"""A kernel for images that attend to themselves, on Hopper, with heads of 65 to 80 columns. See `vision_attention`.

The roles are FlashAttention-3's (Shah et al., 2024): one warp copies, groups of four warps multiply, and while some of
them take exponentials another keeps the tensor cores busy. Written in Gluon, as Triton gives warps no roles.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from workers.engine.continuous.ops.image_tiles import TILE_ROWS

#: groups of four warps that multiply, and patches of each one's queries
_GROUPS = gl.constexpr(3)
ROWS = gl.constexpr(TILE_ROWS // 3)
#: keys and values of one step, and steps that are copied ahead
KEYS = gl.constexpr(128)
_STAGES = gl.constexpr(4)
#: a head's columns are copied as so many and the rest: the bytes of a swizzled row, and the fewest of a product
MAIN = gl.constexpr(64)
REST = gl.constexpr(16)

#: registers of a thread that multiplies, and of one that copies
_REGISTERS = gl.constexpr(160)
_COPY_REGISTERS = gl.constexpr(24)


@gluon.jit
def _copy(maps, tiles, works, stores, barriers, HEADS: gl.constexpr, WIDTH: gl.constexpr):
    """Copy queries, and the keys and values of each step, once those who multiply have freed their places."""
    q_map, q_rest_map, k_map, k_rest_map, v_map, v_rest_map = maps
    q_tiles, q_rests, k_tiles, k_rests, v_tiles, v_rests = stores
    q_ready, q_free, k_ready, k_free, v_ready, v_free = barriers
    step = 0
    q_phase = 0
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        tile = tiles + work // HEADS * 3
        column = work % HEADS * WIDTH
        row = gl.load(tile)
        begin = gl.load(tile + 1)
        stop = gl.load(tile + 2)
        for group in gl.static_range(_GROUPS):
            first = row + group * ROWS
            ready = q_ready.index(group)
            # of a new barrier the phase before the first counts as over
            mbarrier.wait(q_free.index(group), q_phase ^ 1)
            mbarrier.expect(ready, q_map.block_type.nbytes + q_rest_map.block_type.nbytes)
            tma.async_copy_global_to_shared(q_map, [first, column], ready, q_tiles.index(group))
            tma.async_copy_global_to_shared(q_rest_map, [first, column + MAIN], ready, q_rests.index(group))
        for number in range((stop - begin + KEYS - 1) // KEYS):
            # the last keys first: what follows is whole, and nothing is read of the next image, which may be NaN
            key = gl.where(number == 0, stop - KEYS, begin + (number - 1) * KEYS)
            place = step % _STAGES
            before = step // _STAGES & 1 ^ 1
            ready = k_ready.index(place)
            mbarrier.wait(k_free.index(place), before)
            mbarrier.expect(ready, k_map.block_type.nbytes + k_rest_map.block_type.nbytes)
            tma.async_copy_global_to_shared(k_map, [key, column], ready, k_tiles.index(place))
            tma.async_copy_global_to_shared(k_rest_map, [key, column + MAIN], ready, k_rests.index(place))
            ready = v_ready.index(place)
            mbarrier.wait(v_free.index(place), before)
            mbarrier.expect(ready, v_map.block_type.nbytes + v_rest_map.block_type.nbytes)
            tma.async_copy_global_to_shared(v_map, [key, column], ready, v_tiles.index(place))
            tma.async_copy_global_to_shared(v_rest_map, [key, column + MAIN], ready, v_rests.index(place))
            step += 1
        q_phase ^= 1


@gluon.jit
def _multiply_keys(q, q_rest, keys, keys_rest, free, SCORES: gl.constexpr):
    """Return QK^T, and free the keys' place."""
    score = gl.zeros([ROWS, KEYS], gl.float32, SCORES)
    score = warpgroup_mma(q, keys.permute((1, 0)), score, use_acc=False, is_async=True)
    score = warpgroup_mma(q_rest, keys_rest.permute((1, 0)), score, is_async=True)
    score = warpgroup_mma_wait(0, deps=[score])
    mbarrier.arrive(free, count=1)
    return score


@gluon.jit
def _add_values(made, made_rest, part, values, values_rest, free, PARTS_REST: gl.constexpr):
    """Add PV to both parts of the output, and free the values' place."""
    made = warpgroup_mma(part, values, made, is_async=True)
    made_rest = warpgroup_mma(gl.convert_layout(part, PARTS_REST), values_rest, made_rest, is_async=True)
    made, made_rest, part = warpgroup_mma_wait(0, deps=[made, made_rest, part])
    mbarrier.arrive(free, count=1)
    return made, made_rest


@gluon.jit
def _weigh(score, most, weight, scale):
    """Return the exponentials, and how far they change what came before (Milakov and Gimelshein, 2018)."""
    newest = gl.maximum(most, gl.max(score, 1) * scale)
    part = gl.exp2(score * scale - newest[:, None])
    kept = gl.exp2(most - newest)
    return part, kept, newest, weight * kept + gl.sum(part, 1)


@gluon.jit
def _write(out, made, share, row, stop, column, end, HEADS: gl.constexpr, WIDTH: gl.constexpr):
    layout: gl.constexpr = made.type.layout
    rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    columns = column + gl.arange(0, made.shape[1], gl.SliceLayout(0, layout))
    place = rows.to(gl.int64)[:, None] * (HEADS * WIDTH) + columns[None, :]
    made = made * gl.convert_layout(share, gl.SliceLayout(1, layout))[:, None]
    gl.store(out + place, made.to(out.dtype.element_ty), mask=(rows < stop)[:, None] & (columns < end)[None, :])


@gluon.jit
def _attend(tiles, works, out, scale, stores, barriers, group: gl.constexpr, HEADS: gl.constexpr, WIDTH: gl.constexpr):
    """Attend from one group's rows of each tile."""
    q_tiles, q_rests, k_tiles, k_rests, v_tiles, v_rests = stores
    q_ready, q_free, k_ready, k_free, v_ready, v_free = barriers
    kind: gl.constexpr = q_tiles.dtype
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    MADE: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, MAIN, 16])
    MADE_REST: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
    QUERIES: gl.constexpr = gl.DotOperandLayout(0, SCORES, 2)
    PARTS: gl.constexpr = gl.DotOperandLayout(0, MADE, 2)
    PARTS_REST: gl.constexpr = gl.DotOperandLayout(0, MADE_REST, 2)
    step = 0
    q_phase = 0
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        tile = tiles + work // HEADS * 3
        row = gl.load(tile) + group * ROWS
        begin = gl.load(tile + 1)
        stop = gl.load(tile + 2)
        steps = (stop - begin + KEYS - 1) // KEYS

        mbarrier.wait(q_ready.index(group), q_phase)
        q = q_tiles.index(group)
        q_rest = q_rests.index(group).load(QUERIES)
        # what follows a head's columns is the next head's
        mine = gl.arange(0, REST, gl.SliceLayout(0, QUERIES)) < WIDTH - MAIN
        q_rest = gl.where(mine[None, :], q_rest, gl.zeros([ROWS, REST], kind, QUERIES))

        place = step % _STAGES
        phase = step // _STAGES & 1
        mbarrier.wait(k_ready.index(place), phase)
        score = _multiply_keys(q, q_rest, k_tiles.index(place), k_rests.index(place), k_free.index(place), SCORES)
        # keys before these are those of later steps, too
        keys = stop - KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
        score = gl.where((keys >= begin + (steps - 1) * KEYS)[None, :], score, float("-inf"))
        none = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
        part, kept, most, weight = _weigh(score, none, gl.zeros_like(none), scale)
        part = gl.convert_layout(part.to(kind), PARTS)
        made = gl.zeros([ROWS, MAIN], gl.float32, MADE)
        made_rest = gl.zeros([ROWS, REST], gl.float32, MADE_REST)

        for _ in range(steps - 1):
            # the last step's values together with this one's keys: one stretch of products between two of exponentials
            before = place
            before_phase = phase
            step += 1
            place = step % _STAGES
            phase = step // _STAGES & 1
            mbarrier.wait(k_ready.index(place), phase)
            mbarrier.wait(v_ready.index(before), before_phase)
            made, made_rest = _add_values(
                made, made_rest, part, v_tiles.index(before), v_rests.index(before), v_free.index(before), PARTS_REST
            )
            score = _multiply_keys(q, q_rest, k_tiles.index(place), k_rests.index(place), k_free.index(place), SCORES)
            part, kept, most, weight = _weigh(score, most, weight, scale)
            part = gl.convert_layout(part.to(kind), PARTS)
            made = made * gl.convert_layout(kept, gl.SliceLayout(1, MADE))[:, None]
            made_rest = made_rest * gl.convert_layout(kept, gl.SliceLayout(1, MADE_REST))[:, None]

        # orders the loads of `q_rest` before the copy that follows
        fence_async_shared()
        mbarrier.arrive(q_free.index(group), count=1)
        mbarrier.wait(v_ready.index(place), phase)
        made, made_rest = _add_values(
            made, made_rest, part, v_tiles.index(place), v_rests.index(place), v_free.index(place), PARTS_REST
        )
        step += 1
        q_phase ^= 1

        column = work % HEADS * WIDTH
        _write(out, made, 1 / weight, row, stop, column, column + WIDTH, HEADS, WIDTH)
        _write(out, made_rest, 1 / weight, row, stop, column + MAIN, column + WIDTH, HEADS, WIDTH)


@gluon.jit
def _barriers(NUMBER: gl.constexpr, ARRIVALS: gl.constexpr):
    made = gl.allocate_shared_memory(gl.int64, [NUMBER, 1], mbarrier.MBarrierLayout())
    for number in gl.static_range(NUMBER):
        mbarrier.init(made.index(number), count=ARRIVALS)
    return made


# one compilation for all batches: `tiles` begins anywhere in an upload
@gluon.jit(do_not_specialize=["works"], do_not_specialize_on_alignment=["tiles"])
def attend_images_kernel(
    q_map, q_rest_map, k_map, k_rest_map, v_map, v_rest_map, tiles, works, out, scale,
    HEADS: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """Compute the `works`: each is one of `tiles` (n, 3) for one of the heads, whose neighbours share keys in L2."""
    kind: gl.constexpr = q_map.dtype
    stores = (
        gl.allocate_shared_memory(kind, [_GROUPS, ROWS, MAIN], q_map.layout),
        gl.allocate_shared_memory(kind, [_GROUPS, ROWS, REST], q_rest_map.layout),
        gl.allocate_shared_memory(kind, [_STAGES, KEYS, MAIN], k_map.layout),
        gl.allocate_shared_memory(kind, [_STAGES, KEYS, REST], k_rest_map.layout),
        gl.allocate_shared_memory(kind, [_STAGES, KEYS, MAIN], v_map.layout),
        gl.allocate_shared_memory(kind, [_STAGES, KEYS, REST], v_rest_map.layout),
    )
    barriers = (
        _barriers(_GROUPS, 1), _barriers(_GROUPS, 1), _barriers(_STAGES, 1), _barriers(_STAGES, _GROUPS),
        _barriers(_STAGES, 1), _barriers(_STAGES, _GROUPS),
    )  # fmt: skip
    fence_async_shared()
    maps = (q_map, q_rest_map, k_map, k_rest_map, v_map, v_rest_map)
    gl.warp_specialize(
        [
            (_attend, (tiles, works, out, scale, stores, barriers, 0, HEADS, WIDTH)),
            (_attend, (tiles, works, out, scale, stores, barriers, 1, HEADS, WIDTH)),
            (_attend, (tiles, works, out, scale, stores, barriers, 2, HEADS, WIDTH)),
            (_copy, (maps, tiles, works, stores, barriers, HEADS, WIDTH)),
        ],
        [4, 4, 1], [_REGISTERS, _REGISTERS, _COPY_REGISTERS],
    )  # fmt: skip
