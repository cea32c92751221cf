"""Attention of single queries over the pages of their rows."""

# kernels are written in Triton, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: tiles of tensor cores are at least 16 rows high
_LEAST_ROWS = 16

#: blocks that keep a card of 132 multiprocessors busy
_WANTED_BLOCKS = 528

_MOST_SPLITS = 16


@triton.jit
def _attend_rows_kernel(
    q, keys, values, tables, lengths, out, sums, scale, table_width,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """FlashAttention (Dao, 2023) of a row's query heads that share keys, over one of `SPLITS` parts of its pages.

    After Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023). `sums` are the logarithms of the parts' weights.
    """
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    pages = tl.cdiv(length, PAGE)
    share = tl.cdiv(pages, SPLITS)
    line = tl.arange(0, LINES)
    at = tl.arange(0, WIDTH)
    head = group * SHARED + line
    mine = line < SHARED
    query = tl.load(q + (row * GROUPS * SHARED + head)[:, None] * WIDTH + at[None, :], mask=mine[:, None], other=0.0)
    most = tl.full([LINES], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([LINES], dtype=tl.float32)
    made = tl.zeros([LINES, WIDTH], dtype=tl.float32)
    for page in range(split * share, tl.minimum(pages, (split + 1) * share)):
        number = tl.load(tables + row * table_width + page).to(tl.int64)
        token = tl.arange(0, PAGE)
        place = (number * PAGE + token) * (GROUPS * WIDTH) + group * WIDTH
        inside = page * PAGE + token < length
        key = tl.load(keys + place[None, :] + at[:, None])
        score = tl.dot(query, key, input_precision="ieee") * scale
        score = tl.where(inside[None, :], score, float("-inf"))
        newest = tl.maximum(most, tl.max(score, axis=1))
        part = tl.exp2(score - newest[:, None])
        kept = tl.exp2(most - newest)
        # what others left behind the row's end may be no numbers, which no weight of 0 makes harmless
        value = tl.load(values + place[:, None] + at[None, :], mask=inside[:, None], other=0.0)
        weight = weight * kept + tl.sum(part, axis=1)
        made = made * kept[:, None] + tl.dot(part.to(value.dtype), value, input_precision="ieee")
        most = newest
    place = (row * GROUPS * SHARED + head) * SPLITS + split
    # a part without pages has nothing to say
    made = made / tl.maximum(weight, 1e-38)[:, None]
    tl.store(out + place[:, None] * WIDTH + at[None, :], made.to(out.dtype.element_ty), mask=mine[:, None])
    if SPLITS > 1:
        tl.store(sums + place, most + tl.log2(weight), mask=mine)


@triton.jit
def _join_parts_kernel(parts, sums, out, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    at = tl.arange(0, WIDTH)
    log = tl.load(sums + head * SPLITS + split)
    weight = tl.exp2(log - tl.max(log, axis=0))
    part = tl.load(parts + (head * SPLITS + split)[:, None] * WIDTH + at[None, :])
    made = tl.sum(part * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out + head * WIDTH + at, made.to(out.dtype.element_ty))


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, page_tokens: int) -> Tensor:
    """See `Ops`."""
    rows, heads, width = q.shape
    groups = keys.shape[1]
    splits = _splits(rows * groups)
    out = torch.empty_like(q)
    parts = out if splits == 1 else q.new_empty(rows, heads, splits, width, dtype=torch.float32)
    sums = q.new_empty(rows, heads, splits, dtype=torch.float32)
    _attend_rows_kernel[(rows, groups, splits)](
        # exponentials are of base 2
        q, keys, values, tables, lengths, parts, sums, width**-0.5 * 1.4426950408889634, tables.shape[1],
        GROUPS=groups, SHARED=heads // groups, LINES=max(_LEAST_ROWS, triton.next_power_of_2(heads // groups)),
        WIDTH=width, PAGE=page_tokens, SPLITS=splits, num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        _join_parts_kernel[(rows * heads,)](parts, sums, out, WIDTH=width, SPLITS=splits, num_warps=1)
    return out.flatten(1)


def _splits(blocks: int) -> int:
    """Into how many parts a row's pages are divided, as a power of 2."""
    wanted: int = triton.next_power_of_2(max(1, _WANTED_BLOCKS // blocks))
    return min(_MOST_SPLITS, wanted)
