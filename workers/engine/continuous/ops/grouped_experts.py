"""Mixture of experts for many tokens: grouped products that read their rows through the order of pairs by expert.

Programs of one expert follow each other, and those that share a tile of weights are neighbours, so that weights come
from memory once and from the L2 cache after that. See `expert_order` for pairs, blocks and lines.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import sys
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from workers.engine.continuous.ops.expert_order import Order, order_of


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of a product: columns of its output, depth of one iteration, and Triton's warps and pipeline stages."""

    columns: int
    depth: int
    warps: int
    stages: int
    #: lines of the tile for an expert's last ones, where they fit in it; 0 if there is only one height
    tail: int = 0


#: for up to so many tokens, an expert's pairs in a block, the tiles of gate and up and of down: the fastest of 17 on an
#: H200 for 128 experts of 768 x 2048
_TILES = (
    (896, (64, Tile(64, 64, 4, 4), Tile(128, 64, 4, 4))),
    (2560, (128, Tile(128, 64, 8, 4, tail=64), Tile(256, 64, 8, 4, tail=64))),
    (sys.maxsize, (128, Tile(128, 64, 8, 4, tail=64), Tile(128, 64, 4, 3, tail=64))),
)


@triton.jit
def block_of(spans, blocks, TILES: tl.constexpr, EXPERTS: tl.constexpr):
    """Return this program's expert (EXPERTS if there is none), first line, the expert's last + 1, and output tile."""
    program = tl.program_id(0)
    expert = tl.load(blocks + program // TILES)
    number = tl.minimum(expert, EXPERTS - 1)
    begin = tl.load(spans + number)
    last = tl.load(spans + EXPERTS + number)
    own = program - tl.load(spans + 2 * EXPERTS + number) * TILES
    return expert, begin, last, own


@triton.jit
def _gate_up_tile(
    x, weights, order, out, start, last, first, gates,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    line = start + tl.arange(0, LINES)
    inside = (line < last)[:, None]
    token = tl.load(order + line, mask=line < last, other=0) // COUNT
    inputs = x + token.to(tl.int64)[:, None] * WIDTH + tl.arange(0, DEPTH)[None, :]
    gate = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
    up = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
    for at in range(0, WIDTH, DEPTH):
        # all lines without a pair would load the same row, at a third of the speed
        value = tl.load(inputs + at, mask=inside, other=0.0)
        gate = tl.dot(value, weights.load([gates, at]).T, gate)
        up = tl.dot(value, weights.load([gates + INNER, at]).T, up)
    kind = out.dtype.element_ty
    # rounded as the separate operations round
    gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    made = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32) * up
    column = first + tl.arange(0, COLUMNS)
    row = out + line.to(tl.int64)[:, None] * INNER
    tl.store(row + column[None, :], made.to(kind), mask=inside & (column < INNER)[None, :])


@triton.jit
def _gate_up_kernel(
    x, weights, order, spans, blocks, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, EXPERTS: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of the pairs, in the experts' order."""
    expert, begin, last, own = block_of(spans, blocks, (INNER + COLUMNS - 1) // COLUMNS, EXPERTS)
    if expert < EXPERTS:
        count = tl.cdiv(last - begin, LINES)
        start = begin + (own % count) * LINES
        first = (own // count) * COLUMNS
        gates = expert * (2 * INNER) + first
        if TAIL == LINES:
            _gate_up_tile(x, weights, order, out, start, last, first, gates, WIDTH, INNER, COUNT, LINES, COLUMNS, DEPTH)
        elif start + TAIL >= last:
            _gate_up_tile(x, weights, order, out, start, last, first, gates, WIDTH, INNER, COUNT, TAIL, COLUMNS, DEPTH)
        else:
            _gate_up_tile(x, weights, order, out, start, last, first, gates, WIDTH, INNER, COUNT, LINES, COLUMNS, DEPTH)


@triton.jit
def _down_tile(
    x, weights, out, start, last, first, downs,
    WIDTH: tl.constexpr, INNER: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    made = tl.zeros([LINES, COLUMNS], dtype=tl.float32)
    for at in range(0, INNER, DEPTH):
        # lines behind the expert's last are other pairs' and are not stored
        made = tl.dot(x.load([start, at]), weights.load([downs, at]).T, made)
    line = start + tl.arange(0, LINES)
    column = first + tl.arange(0, COLUMNS)
    inside = (line < last)[:, None] & (column < WIDTH)[None, :]
    row = out + line.to(tl.int64)[:, None] * WIDTH
    tl.store(row + column[None, :], made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _down_kernel(
    x, tail, weights, spans, blocks, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EXPERTS: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Multiply by the down weights, from `INNER` to `WIDTH`; input and output in the experts' order.

    `x` and `tail` are the same tensor in tiles of different height.
    """
    expert, begin, last, own = block_of(spans, blocks, (WIDTH + COLUMNS - 1) // COLUMNS, EXPERTS)
    if expert < EXPERTS:
        count = tl.cdiv(last - begin, LINES)
        start = begin + (own % count) * LINES
        first = (own // count) * COLUMNS
        downs = expert * WIDTH + first
        if TAIL == LINES:
            _down_tile(x, weights, out, start, last, first, downs, WIDTH, INNER, LINES, COLUMNS, DEPTH)
        elif start + TAIL >= last:
            _down_tile(tail, weights, out, start, last, first, downs, WIDTH, INNER, TAIL, COLUMNS, DEPTH)
        else:
            _down_tile(x, weights, out, start, last, first, downs, WIDTH, INNER, LINES, COLUMNS, DEPTH)


def grouped_gate_up(x: Tensor, weights: Tensor, order: Order, tile: Tile, out: Tensor) -> None:
    experts, inner, width = len(weights), weights.shape[1] // 2, x.shape[-1]
    tiles = triton.cdiv(inner, tile.columns)
    _gate_up_kernel[(len(order.blocks) * tiles,)](
        x, _rows(weights.flatten(0, 1), tile.columns, tile), order.pairs, order.spans, order.blocks, out,
        WIDTH=width, INNER=inner, COUNT=order.places.shape[1], EXPERTS=experts,
        LINES=order.lines, COLUMNS=tile.columns, DEPTH=tile.depth, TAIL=tile.tail or order.lines,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def grouped_down(x: Tensor, weights: Tensor, order: Order, tile: Tile, out: Tensor) -> None:
    experts, width, inner = weights.shape
    tiles = triton.cdiv(width, tile.columns)
    tail = tile.tail or order.lines
    _down_kernel[(len(order.blocks) * tiles,)](
        _rows(x, order.lines, tile), _rows(x, tail, tile), _rows(weights.flatten(0, 1), tile.columns, tile),
        order.spans, order.blocks, out,
        WIDTH=width, INNER=inner, EXPERTS=experts,
        LINES=order.lines, COLUMNS=tile.columns, DEPTH=tile.depth, TAIL=tail,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def grouped_experts(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pair's output (pairs, H) in the experts' order, and each pair's place in it (T, k)."""
    tokens, (number, width, inner) = len(x), down.shape
    lines, first, second = next(tiles for most, tiles in _TILES if tokens <= most)
    order = order_of(chosen, number, lines)
    gated, made = x.new_empty(chosen.numel(), inner), x.new_empty(chosen.numel(), width)
    grouped_gate_up(x, gate_up, order, first, gated)
    grouped_down(gated, down, order, second, made)
    return made, order.places


def _rows(matrix: Tensor, rows: int, tile: Tile) -> TensorDescriptor:
    """Let the tensor memory accelerator copy tiles of a matrix (Hopper and later; older cards load them)."""
    return TensorDescriptor.from_tensor(matrix, [rows, tile.depth])
