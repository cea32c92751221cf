"""Attention of a step of few rows, with what comes before it: norms, rotation and the cache (see `Ops.attend_step`).

One kernel instead of two, and the blocks of the cache are read while the product of queries and keys is still computed.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import Heads
from workers.engine.continuous.ops.early_launch import await_inputs, early
from workers.engine.continuous.ops.paged_attention import attend_paged
from workers.engine.continuous.ops.rotary import rotate

#: the most rows
MAX_ROWS = 8

#: the fewest rows of a tensor core's tile
_MIN_LINES = 16

#: programs that keep a card of 132 multiprocessors busy
_WANTED_PROGRAMS = 132

_MAX_SPLITS = 16


@triton.jit
def _turned(first, second, low, high, cos, sin, epsilon, HALF: tl.constexpr):
    """Norm and rotate heads given as halves (heads, HALF), rounded as in the model's own module."""
    kind = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    scale = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + epsilon)[:, None]
    first = ((first * scale).to(kind).to(tl.float32) * low).to(kind).to(tl.float32)
    second = ((second * scale).to(kind).to(tl.float32) * high).to(kind).to(tl.float32)
    return (first * cos - second * sin).to(kind), (second * cos + first * sin).to(kind)


@triton.jit
def _attend_step_kernel(
    qkv, query_norm, key_norm, cos_sin, keys, values, block_tables, lengths, parts, sums, epsilon, scale, table_width,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, LINES: tl.constexpr, HALF: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Attend from a row's query heads that share keys to one of `SPLITS` parts of its cache blocks.

    As `_attend_paged_kernel` of paged_attention. The part with the row's newest token writes it to the cache.
    """
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width: tl.constexpr = 2 * HALF
    line = tl.arange(0, LINES)
    half = tl.arange(0, HALF)
    at = tl.arange(0, width)
    token = tl.arange(0, BLOCK_SIZE)
    length = tl.load(lengths + row)
    blocks = tl.cdiv(length, BLOCK_SIZE)
    share = tl.cdiv(blocks, SPLITS)
    begin, end = split * share, tl.minimum(blocks, (split + 1) * share)
    table = block_tables + row * table_width
    # what earlier passes wrote is complete; the newest token's place is not read
    place = tl.load(table + begin, mask=begin < end, other=0).to(tl.int64) * (BLOCK_SIZE * GROUPS * width)
    place += group * width
    present = (token < length - 1 - begin * BLOCK_SIZE) & (begin < end)
    key_offset = token[None, :] * (GROUPS * width) + half[:, None]
    value_offset = token[:, None] * (GROUPS * width) + at[None, :]
    lower = tl.load(keys + place + key_offset, mask=present[None, :], other=0.0)
    upper = tl.load(keys + place + HALF + key_offset, mask=present[None, :], other=0.0)
    value = tl.load(values + place + value_offset, mask=present[:, None], other=0.0)
    low_norm = tl.load(query_norm + half).to(tl.float32)[None, :]
    high_norm = tl.load(query_norm + HALF + half).to(tl.float32)[None, :]
    low_key_norm = tl.load(key_norm + half).to(tl.float32)[None, :]
    high_key_norm = tl.load(key_norm + HALF + half).to(tl.float32)[None, :]
    await_inputs(EARLY)
    to = (row * GROUPS * SHARED + group * SHARED + line) * SPLITS + split
    if begin >= end:
        # the row is padding, or has fewer blocks
        tl.store(sums + to, float("-inf"), mask=line < SHARED)
        return
    cos = tl.load(cos_sin + row * width + half)[None, :]
    sin = tl.load(cos_sin + row * width + HALF + half)[None, :]
    mine = (line < SHARED)[:, None]
    start = qkv + row * ((GROUPS * SHARED + 2 * GROUPS) * width)
    heads = start + (group * SHARED + line)[:, None] * width + half[None, :]
    low_query, high_query = _turned(
        tl.load(heads, mask=mine, other=0.0), tl.load(heads + HALF, mask=mine, other=0.0),
        low_norm, high_norm, cos, sin, epsilon, HALF,
    )  # fmt: skip
    most = tl.full([LINES], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([LINES], dtype=tl.float32)
    made = tl.zeros([LINES, width], dtype=tl.float32)
    for block in range(begin, end):
        if block == blocks - 1:
            newest = token == length - 1 - block * BLOCK_SIZE
            new_key = start + (GROUPS * SHARED + group) * width + half[None, :]
            low_key, high_key = _turned(
                tl.load(new_key), tl.load(new_key + HALF), low_key_norm, high_key_norm, cos, sin, epsilon, HALF
            )
            new_value = tl.load(start + (GROUPS * SHARED + GROUPS + group) * width + at)
            own = place + (length - 1 - block * BLOCK_SIZE) * (GROUPS * width)
            tl.store(keys + own + half[None, :], low_key)
            tl.store(keys + own + HALF + half[None, :], high_key)
            tl.store(values + own + at, new_value)
            lower = tl.where(newest[None, :], tl.trans(low_key), lower)
            upper = tl.where(newest[None, :], tl.trans(high_key), upper)
            value = tl.where(newest[:, None], new_value[None, :], value)
        score = tl.dot(low_query, lower, input_precision="ieee")
        score = tl.dot(high_query, upper, score, input_precision="ieee") * scale
        score = tl.where((token < length - block * BLOCK_SIZE)[None, :], score, float("-inf"))
        highest = tl.maximum(most, tl.max(score, axis=1))
        part = tl.exp2(score - highest[:, None])
        kept = tl.exp2(most - highest)
        weight = weight * kept + tl.sum(part, axis=1)
        made = made * kept[:, None] + tl.dot(part.to(value.dtype), value, input_precision="ieee")
        most = highest
        if block + 1 < end:
            place = tl.load(table + block + 1).to(tl.int64) * (BLOCK_SIZE * GROUPS * width) + group * width
            present = token < length - 1 - (block + 1) * BLOCK_SIZE
            lower = tl.load(keys + place + key_offset, mask=present[None, :], other=0.0)
            upper = tl.load(keys + place + HALF + key_offset, mask=present[None, :], other=0.0)
            value = tl.load(values + place + value_offset, mask=present[:, None], other=0.0)
    tl.store(parts + to[:, None] * width + at[None, :], made / weight[:, None], mask=mine)
    tl.store(sums + to, most + tl.log2(weight), mask=line < SHARED)


@triton.jit
def _join_kernel(
    parts, sums, lengths, out, HEADS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    head = tl.program_id(0)
    length = tl.load(lengths + head // HEADS)
    await_inputs(EARLY)
    if length == 0:
        return
    split = tl.arange(0, SPLITS)
    at = tl.arange(0, WIDTH)
    log = tl.load(sums + head * SPLITS + split)
    # a part without blocks was not written
    part = tl.load(
        parts + (head * SPLITS + split)[:, None] * WIDTH + at[None, :], mask=(log > float("-inf"))[:, None], other=0.0
    )
    weight = tl.exp2(log - tl.max(log, axis=0))
    made = tl.sum(part * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out + head * WIDTH + at, made.to(out.dtype.element_ty))


def attend_step(
    qkv: Tensor, heads: Heads, cos_sin: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor,
    block_tables: Tensor, lengths: Tensor, block_size: int, out: Tensor,
) -> None:  # fmt: skip
    if _suits(len(qkv), heads):
        _launch(qkv, heads, cos_sin, keys, values, block_tables, lengths, block_size, out)
    else:
        q = rotate(qkv, heads, cos_sin, keys, values, slot_mapping)
        attend_paged(q, keys, values, block_tables, lengths, block_size, out)


def _suits(rows: int, heads: Heads) -> bool:
    # the tensor cores' tiles are 16 deep
    return rows <= MAX_ROWS and heads.head_dim >= 32 and heads.head_dim & (heads.head_dim - 1) == 0


def _launch(
    qkv: Tensor, heads: Heads, cos_sin: Tensor, keys: Tensor, values: Tensor, block_tables: Tensor, lengths: Tensor,
    block_size: int, out: Tensor,
) -> None:  # fmt: skip
    rows, groups, width = len(qkv), heads.kv_heads, heads.head_dim
    shared = heads.query_heads // groups
    splits = min(_MAX_SPLITS, triton.next_power_of_2(max(1, _WANTED_PROGRAMS // (rows * groups))))
    parts = qkv.new_empty(rows, heads.query_heads, splits, width, dtype=torch.float32)
    sums = qkv.new_empty(rows, heads.query_heads, splits, dtype=torch.float32)
    _attend_step_kernel[(rows, groups, splits)](
        qkv, heads.query_norm, heads.key_norm, cos_sin, keys, values, block_tables, lengths, parts, sums,
        # 1.44 is log2(e): the kernel's exponentials have base 2
        heads.epsilon, width**-0.5 * 1.4426950408889634, block_tables.stride(0),
        GROUPS=groups, SHARED=shared, LINES=max(_MIN_LINES, triton.next_power_of_2(shared)), HALF=width // 2,
        BLOCK_SIZE=block_size, SPLITS=splits, num_warps=4, **early(),
    )  # fmt: skip
    _join_kernel[(rows * heads.query_heads,)](
        parts, sums, lengths, out, HEADS=heads.query_heads, WIDTH=width, SPLITS=splits, num_warps=1, **early()
    )
