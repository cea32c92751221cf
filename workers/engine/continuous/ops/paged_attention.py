"""Attention of a decode step: one query per row over the row's blocks. See `Ops.attend_paged`."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: the fewest rows of a tensor core's tile
_MIN_LINES = 16

#: programs that keep a card of 132 multiprocessors busy
_WANTED_PROGRAMS = 528

_MAX_SPLITS = 16


# one compilation for all batches: `lengths` begins anywhere in a pass's inputs
@triton.jit(do_not_specialize_on_alignment=["lengths"])
def _attend_paged_kernel(
    q, keys, values, block_tables, lengths, out, sums, scale, table_width,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """Attend from a row's query heads that share keys to one of `SPLITS` parts of its cache blocks.

    FlashAttention (Dao, 2023) with the splits of Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023). `sums` are the
    base 2 logarithms of the parts' softmax denominators; `LINES` are the `SHARED` heads padded to a tile.
    """
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    if length == 0:
        return
    blocks = tl.cdiv(length, BLOCK_SIZE)
    share = tl.cdiv(blocks, SPLITS)
    line = tl.arange(0, LINES)
    at = tl.arange(0, WIDTH)
    head = group * SHARED + line
    mine = line < SHARED
    query = tl.load(q + (row * GROUPS * SHARED + head)[:, None] * WIDTH + at[None, :], mask=mine[:, None], other=0.0)
    most = tl.full([LINES], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([LINES], dtype=tl.float32)
    made = tl.zeros([LINES, WIDTH], dtype=tl.float32)
    token = tl.arange(0, BLOCK_SIZE)
    table = block_tables + row * table_width
    key_offset = token[None, :] * (GROUPS * WIDTH) + at[:, None]
    value_offset = token[:, None] * (GROUPS * WIDTH) + at[None, :]
    for block in range(split * share, tl.minimum(blocks, (split + 1) * share)):
        place = tl.load(table + block).to(tl.int64) * (BLOCK_SIZE * GROUPS * WIDTH) + group * WIDTH
        inside = token < length - block * BLOCK_SIZE
        key = tl.load(keys + place + key_offset)
        score = tl.dot(query, key, input_precision="ieee") * scale
        score = tl.where(inside[None, :], score, float("-inf"))
        newest = tl.maximum(most, tl.max(score, axis=1))
        part = tl.exp2(score - newest[:, None])
        kept = tl.exp2(most - newest)
        # an earlier sequence may have left NaN after the row's end, and 0 times NaN is NaN
        value = tl.load(values + place + value_offset, mask=inside[:, None], other=0.0)
        weight = weight * kept + tl.sum(part, axis=1)
        made = made * kept[:, None] + tl.dot(part.to(value.dtype), value, input_precision="ieee")
        most = newest
    place = (row * GROUPS * SHARED + head) * SPLITS + split
    # a part may have no blocks
    made = made / tl.maximum(weight, 1e-38)[:, None]
    tl.store(out + place[:, None] * WIDTH + at[None, :], made.to(out.dtype.element_ty), mask=mine[:, None])
    if SPLITS > 1:
        tl.store(sums + place, most + tl.log2(weight), mask=mine)


@triton.jit(do_not_specialize_on_alignment=["lengths"])
def _join_parts_kernel(parts, sums, lengths, out, HEADS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0)
    if tl.load(lengths + head // HEADS) == 0:
        return
    split = tl.arange(0, SPLITS)
    at = tl.arange(0, WIDTH)
    log = tl.load(sums + head * SPLITS + split)
    weight = tl.exp2(log - tl.max(log, axis=0))
    part = tl.load(parts + (head * SPLITS + split)[:, None] * WIDTH + at[None, :])
    made = tl.sum(part * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out + head * WIDTH + at, made.to(out.dtype.element_ty))


def attend_paged(
    q: Tensor, keys: Tensor, values: Tensor, block_tables: Tensor, lengths: Tensor, block_size: int, out: Tensor
) -> None:
    rows, heads, width = q.shape
    groups = keys.shape[1]
    splits = _splits(rows * groups)
    parts = out if splits == 1 else q.new_empty(rows, heads, splits, width, dtype=torch.float32)
    sums = q.new_empty(rows, heads, splits, dtype=torch.float32)
    _attend_paged_kernel[(rows, groups, splits)](
        # 1.44 is log2(e): the kernel's exponentials have base 2
        q, keys, values, block_tables, lengths, parts, sums, width**-0.5 * 1.4426950408889634, block_tables.stride(0),
        GROUPS=groups, SHARED=heads // groups, LINES=max(_MIN_LINES, triton.next_power_of_2(heads // groups)),
        WIDTH=width, BLOCK_SIZE=block_size, SPLITS=splits, num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        _join_parts_kernel[(rows * heads,)](
            parts, sums, lengths, out, HEADS=heads, WIDTH=width, SPLITS=splits, num_warps=1
        )


def _splits(programs: int) -> int:
    """Return the number of parts of a row's blocks, a power of 2, for this number of rows x key heads."""
    wanted: int = triton.next_power_of_2(max(1, _WANTED_PROGRAMS // programs))
    return min(_MAX_SPLITS, wanted)
