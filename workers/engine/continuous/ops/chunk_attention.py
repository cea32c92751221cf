"""Attention from prompt chunks to the blocks of their sequences. See `Ops.attend_chunks`."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of the scores: rows (a token's query heads that share keys, times tokens), keys, Triton's warps, stages."""

    rows: int
    keys: int
    warps: int
    stages: int


#: the fastest of 13 on an H200 for whole prompts and for questions behind cached images
_TILE = Tile(64, 64, 4, 3)
#: for 4-byte numbers, which the tensor cores do not multiply exactly
_WIDE_TILE = Tile(32, 32, 4, 2)

#: Programs for tiles that sequences leave partly empty. With more sequences some programs take several tiles: most
#: sequences of a captured batch are empty, and an idle program takes about a microsecond.
_SPARE_PROGRAMS = 32


@triton.jit
def _find_tile(cu_seqlens, tile, sequences, TOKENS: tl.constexpr, BINS: tl.constexpr):
    """Return the sequence of the tile with this number, counted from the last one, and its first row.

    The sequence is negative where there is no such tile.
    """
    number = tl.arange(0, BINS)
    inside = number < sequences
    start = tl.load(cu_seqlens + number, mask=inside, other=0)
    tiles = tl.where(inside, tl.cdiv(tl.load(cu_seqlens + number + 1, mask=inside, other=0) - start, TOKENS), 0)
    until = tl.cumsum(tiles, axis=0)
    # the last tiles of a prompt have the most keys: they go first, so that no long one is left at the end
    tile = tl.sum(tiles, axis=0) - 1 - tile
    sequence = tl.sum(tl.where((until <= tile) & inside, 1, 0), axis=0)
    mine = number == sequence
    first = tl.sum(tl.where(mine, start + (tile - until + tiles) * TOKENS, 0), axis=0)
    return tl.where(tile < 0, -1, sequence), first


@triton.jit
def _attend_keys(
    query, position, keys, values, table, length, begin, end, scale, most, weight, made,
    MASKED: tl.constexpr, PITCH: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Attend to the keys from `begin` to `end`, of which only masked ones may lie behind a query or the length."""
    line = tl.arange(0, KEYS)
    offset = line[:, None] * PITCH + tl.arange(0, WIDTH)[None, :]
    for first in range(begin, end, KEYS):
        number = tl.load(table + first // BLOCK_SIZE).to(tl.int64)
        place = (number * BLOCK_SIZE + first % BLOCK_SIZE) * PITCH
        score = tl.dot(query, tl.trans(tl.load(keys + place + offset)), input_precision="ieee")
        if MASKED:
            token = first + line
            score = tl.where(token[None, :] <= position[:, None], score, float("-inf"))
            # an earlier sequence may have left NaN after the sequence's end, and 0 times NaN is NaN
            value = tl.load(values + place + offset, mask=(token < length)[:, None], other=0.0)
        else:
            value = tl.load(values + place + offset)
        newest = tl.maximum(most, tl.max(score, axis=1) * scale)
        part = tl.exp2(score * scale - newest[:, None])
        kept = tl.exp2(most - newest)
        weight = weight * kept + tl.sum(part, axis=1)
        made = tl.dot(part.to(value.dtype), value, made * kept[:, None], input_precision="ieee")
        most = newest
    return most, weight, made


# one compilation for all batches: sizes and addresses that vary must not become part of the code
@triton.jit(do_not_specialize=["sequences", "most_tiles"], do_not_specialize_on_alignment=["cu_seqlens", "lengths"])
def _attend_chunks_kernel(
    q, keys, values, block_tables, cu_seqlens, lengths, out, scale, table_width, sequences, most_tiles,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """FlashAttention-2 (Dao, 2023). `LINES` are the `SHARED` query heads that share keys, padded to a power of 2."""
    TOKENS: tl.constexpr = ROWS // LINES
    group = tl.program_id(0)
    for tile in range(tl.program_id(1), most_tiles, tl.num_programs(1)):
        sequence, first = _find_tile(cu_seqlens, tile, sequences, TOKENS, BINS)
        if sequence >= 0:
            stop = tl.load(cu_seqlens + sequence + 1)
            length = tl.load(lengths + sequence)
            line = tl.arange(0, ROWS)
            row = first + line // LINES
            head = group * SHARED + line % LINES
            mine = (row < stop) & (line % LINES < SHARED)
            at = tl.arange(0, WIDTH)
            place = (row * (GROUPS * SHARED) + head)[:, None] * WIDTH + at[None, :]
            query = tl.load(q + place, mask=mine[:, None], other=0.0)
            earliest = length - stop + first
            latest = tl.minimum(earliest + TOKENS, length)
            position = earliest + line // LINES
            # before this the tile's first query, and so each, sees all keys
            whole = (earliest + 1) // KEYS * KEYS
            most = tl.full([ROWS], float("-inf"), dtype=tl.float32)
            weight = tl.zeros([ROWS], dtype=tl.float32)
            made = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
            table = block_tables + sequence.to(tl.int64) * table_width
            most, weight, made = _attend_keys(
                query, position, keys + group * WIDTH, values + group * WIDTH, table, length, 0, whole, scale,
                most, weight, made, False, GROUPS * WIDTH, WIDTH, KEYS, BLOCK_SIZE,
            )  # fmt: skip
            most, weight, made = _attend_keys(
                query, position, keys + group * WIDTH, values + group * WIDTH, table, length, whole, latest, scale,
                most, weight, made, True, GROUPS * WIDTH, WIDTH, KEYS, BLOCK_SIZE,
            )  # fmt: skip
            made = made / weight[:, None]
            tl.store(out + place, made.to(out.dtype.element_ty), mask=mine[:, None])


def attend_chunks(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    cu_seqlens: Tensor,
    lengths: Tensor,
    block_size: int,
    out: Tensor,
) -> None:
    tokens, heads, width = q.shape
    groups, sequences = keys.shape[1], len(lengths)
    shared = heads // groups
    lines = triton.next_power_of_2(shared)
    tile = _TILE if q.dtype != torch.float32 else _WIDE_TILE
    rows = max(tile.rows, lines)
    # the fewest tiles that hold all tokens, and one that is not full for each sequence
    most_tiles = tokens // (rows // lines) + min(sequences, tokens)
    programs = min(most_tiles, tokens // (rows // lines) + _SPARE_PROGRAMS)
    _attend_chunks_kernel[(groups, programs)](
        # 1.44 is log2(e): the kernel's exponentials have base 2
        q, keys, values, block_tables, cu_seqlens, lengths, out, width**-0.5 * 1.4426950408889634,
        block_tables.stride(0), sequences, most_tiles,
        GROUPS=groups, SHARED=shared, LINES=lines, WIDTH=width, BLOCK_SIZE=block_size, ROWS=rows,
        KEYS=min(tile.keys, block_size), BINS=max(256, triton.next_power_of_2(sequences)),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
