"""Mixture of experts for few tokens, where reading the experts' weights takes the time: each weight is read once.

A grouped product made for many tokens reaches half of the memory bandwidth here. This one puts the weights on the long
side of the tensor cores' tiles and an expert's few tokens on the short side, and reads tokens without gathering them
first. In the kernels a pair is a token and one of its experts, and a line is a row of a tile that holds a pair.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import sys
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.expert_order import order_of


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of a product: pairs of an expert, rows of the weights, depth of an iteration, Triton's warps and stages."""

    lines: int
    rows: int
    depth: int
    warps: int
    stages: int


#: above this a product made for more lines is as fast
MAX_TOKENS = 192

#: for up to so many tokens, the tiles of gate and up and of down: the fastest of 20 on an H200 for 128 experts of
#: 768 x 2048, within 3 % of the time to read their bytes
_TILES = (
    (12, (Tile(16, 64, 128, 4, 4), Tile(16, 64, 64, 4, 4))),
    (sys.maxsize, (Tile(16, 64, 128, 4, 3), Tile(16, 128, 128, 4, 3))),
)


@triton.jit
def expert_lines(ends, block, EXPERTS: tl.constexpr, BINS: tl.constexpr, LINES: tl.constexpr):
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
    expert, first, last = expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
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
            # all lines without a pair would load the same row
            value = tl.load(inputs + at, mask=(line < last)[None, :], other=0.0)
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
    expert, first, last = expert_lines(ends, tl.program_id(1), EXPERTS, BINS, LINES)
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
    first, second = next(tiles for most, tiles in _TILES if tokens <= most)
    order = order_of(chosen, number, first.lines)
    blocks = min(pairs, number + pairs // first.lines)
    gated, made = x.new_empty(pairs, inner), x.new_empty(pairs, width)
    shape = {"WIDTH": width, "INNER": inner, "EXPERTS": number, "BINS": triton.next_power_of_2(number + 1)}
    _gate_up_kernel[(triton.cdiv(inner, first.rows), blocks)](
        x, gate_up, order.spans[1], order.pairs, gated,
        COUNT=count, ROWS=first.rows, DEPTH=_depth(first, width, x), LINES=first.lines, **shape,
        num_warps=first.warps, num_stages=first.stages,
    )  # fmt: skip
    _down_kernel[(triton.cdiv(width, second.rows), blocks)](
        gated, down, order.spans[1], made,
        ROWS=second.rows, DEPTH=_depth(second, inner, x), LINES=second.lines, **shape,
        num_warps=second.warps, num_stages=second.stages,
    )  # fmt: skip
    return made, order.places


def _depth(tile: Tile, width: int, like: Tensor) -> int:
    """Return the tile's depth (half of it for 4-byte numbers), or the largest power of 2 below that divides `width`."""
    return min(tile.depth * 2 // like.element_size(), width & -width)
