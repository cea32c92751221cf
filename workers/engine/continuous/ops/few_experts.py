"""Mixture of experts for few tokens, where reading the experts' weights takes the time: each weight is read once.

A grouped product made for many tokens reaches half of the memory bandwidth here. This one puts the weights on the long
side of the tensor cores' tiles and an expert's few tokens on the short side, and reads tokens without gathering them
first. In the kernels a pair is a token and one of its experts, and a line is a row of a tile that holds a pair.
"""

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
    """Tile of a product: rows of the weights, depth of one iteration, and Triton's warps and pipeline stages."""

    rows: int
    depth: int
    warps: int
    stages: int


#: above this a grouped product is faster
MAX_TOKENS = 256

#: pairs of one expert in a tile
_LINES = 16

# the fastest of 30 tiles on an H200 for 128 experts of 768 x 2048: within 3 % of the time to read their bytes
_GATE_UP, _DOWN = Tile(64, 128, 4, 3), Tile(128, 128, 4, 3)
#: tokens up to which other tiles are faster
_VERY_FEW = 12
_VERY_FEW_GATE_UP, _VERY_FEW_DOWN = Tile(64, 128, 4, 4), Tile(64, 64, 4, 4)


@triton.jit
def _sort_kernel(chosen, ends, order, places, pairs, BLOCK: tl.constexpr, EXPERTS: tl.constexpr, BINS: tl.constexpr):
    """Sort all pairs by expert, in one program.

    `order` maps a place in the experts' order to a pair, `places` a pair to its place.
    """
    at = tl.arange(0, BLOCK)
    inside = at < pairs
    # positions without a pair fall into an extra bin
    expert = tl.load(chosen + at, mask=inside, other=EXPERTS)
    number = tl.arange(0, BINS)
    count = tl.histogram(expert, BINS)
    end = tl.cumsum(count, axis=0)
    # `ends` first holds where each expert's pairs begin; each pair takes a place by incrementing it, up to the end
    tl.store(ends + number, end - count, mask=number < EXPERTS)
    tl.debug_barrier()
    place = tl.atomic_add(ends + expert, 1, mask=inside)
    tl.store(order + place, at, mask=inside)
    tl.store(places + at, place, mask=inside)


@triton.jit
def _expert_lines(ends, block, EXPERTS: tl.constexpr, BINS: tl.constexpr, LINES: tl.constexpr):
    """Return the expert of a block of lines (EXPERTS if there is none), the first line, and the expert's last + 1."""
    number = tl.arange(0, BINS)
    end = tl.load(ends + number, mask=number < EXPERTS, other=0)
    begin = tl.load(ends + number - 1, mask=(number > 0) & (number < EXPERTS), other=0)
    blocks = tl.where(number < EXPERTS, tl.cdiv(end - begin, LINES), 0)
    until = tl.cumsum(blocks, axis=0)
    expert = tl.sum(tl.where((until <= block) & (number < EXPERTS), 1, 0), axis=0)
    mine = number == expert
    before = tl.sum(tl.where(mine, until - blocks, 0), axis=0)
    first = tl.sum(tl.where(mine, begin, 0), axis=0) + (block - before) * LINES
    return expert, first, tl.sum(tl.where(mine, end, 0), axis=0)


@triton.jit
def _gate_up_kernel(
    x, weights, ends, order, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, EXPERTS: tl.constexpr, BINS: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of the pairs, in the experts' order."""
    expert, first, last = _expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
    if expert < EXPERTS:
        line = first + tl.arange(0, LINES)
        token = tl.load(order + line, mask=line < last, other=0) // COUNT
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        depth = tl.arange(0, DEPTH)
        start = weights + expert.to(tl.int64) * (2 * INNER * WIDTH)
        gates = start + row[:, None] * WIDTH + depth[None, :]
        ups = gates + INNER * WIDTH
        inputs = x + token[None, :] * WIDTH + depth[:, None]
        gate = tl.zeros([ROWS, LINES], dtype=tl.float32)
        up = tl.zeros([ROWS, LINES], dtype=tl.float32)
        inside = (row < INNER)[:, None]
        for at in range(0, WIDTH, DEPTH):
            value = tl.load(inputs + at)
            gate = tl.dot(tl.load(gates + at, mask=inside, other=0.0), value, gate, input_precision="ieee")
            up = tl.dot(tl.load(ups + at, mask=inside, other=0.0), value, up, input_precision="ieee")
        kind = out.dtype.element_ty
        # rounded as the separate operations round
        gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
        made = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32) * up
        tl.store(out + line[None, :] * INNER + row[:, None], made.to(kind), mask=inside & (line < last)[None, :])


@triton.jit
def _down_kernel(
    x, weights, ends, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr, BINS: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Multiply by the down weights, from `INNER` to `WIDTH`; input and output in the experts' order."""
    expert, first, last = _expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
    if expert < EXPERTS:
        line = first + tl.arange(0, LINES)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        depth = tl.arange(0, DEPTH)
        inside = (row < WIDTH)[:, None]
        start = weights + expert.to(tl.int64) * (WIDTH * INNER)
        downs = start + row[:, None] * INNER + depth[None, :]
        inputs = x + line[None, :] * INNER + depth[:, None]
        made = tl.zeros([ROWS, LINES], dtype=tl.float32)
        for at in range(0, INNER, DEPTH):
            value = tl.load(inputs + at, mask=(line < last)[None, :], other=0.0)
            made = tl.dot(tl.load(downs + at, mask=inside, other=0.0), value, made, input_precision="ieee")
        tl.store(
            out + line[None, :] * WIDTH + row[:, None],
            made.to(out.dtype.element_ty),
            mask=inside & (line < last)[None, :],
        )


def few_experts(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pair's output (pairs, H) in the experts' order, and each pair's place in it (T, k)."""
    tokens, count = chosen.shape
    pairs, width, number, inner = tokens * count, x.shape[-1], len(gate_up), down.shape[-1]
    bins = triton.next_power_of_2(number + 1)
    ends, order, places = (torch.empty(n, dtype=torch.int32, device=x.device) for n in (number, pairs, pairs))
    _sort_kernel[(1,)](
        chosen, ends, order, places, pairs, BLOCK=triton.next_power_of_2(pairs), EXPERTS=number, BINS=bins, num_warps=8
    )
    blocks = min(pairs, number + pairs // _LINES)
    gated, made = x.new_empty(pairs, inner), x.new_empty(pairs, width)
    first, second = (_GATE_UP, _DOWN) if tokens > _VERY_FEW else (_VERY_FEW_GATE_UP, _VERY_FEW_DOWN)
    _gate_up_kernel[(triton.cdiv(inner, first.rows), blocks)](
        x, gate_up, ends, order, gated,
        WIDTH=width, INNER=inner, COUNT=count, EXPERTS=number, BINS=bins,
        ROWS=first.rows, DEPTH=_depth(first, width, x), LINES=_LINES, num_warps=first.warps, num_stages=first.stages,
    )  # fmt: skip
    _down_kernel[(triton.cdiv(width, second.rows), blocks)](
        gated, down, ends, made,
        WIDTH=width, INNER=inner, EXPERTS=number, BINS=bins,
        ROWS=second.rows, DEPTH=_depth(second, inner, x), LINES=_LINES, num_warps=second.warps,
        num_stages=second.stages,
    )  # fmt: skip
    return made, places.view(tokens, count)


def _depth(tile: Tile, width: int, like: Tensor) -> int:
    """Return the tile's depth (half of it for 4-byte numbers), or the largest power of 2 below that divides `width`."""
    return min(tile.depth * 2 // like.element_size(), width & -width)
