"""Mixture of experts for very few tokens: each program reads its pair's weights itself, and nothing is sorted.

A pair is a token and one of its experts. Pairs of one expert read its weights at the same time, and so all but once
from the L2 cache.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.early_launch import await_inputs, await_inputs_alone, early


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of the weights (of gate and of up, or of each expert's down) in a program, and Triton's warps."""

    rows: int
    warps: int


#: above this, sorted pairs that share an expert's weights are faster
MAX_TOKENS = 4

_GATE_UP = Tile(1, 1)
_DOWN = Tile(1, 2)

#: the widest input of a program, in bytes
MAX_WIDTH = 8192


@triton.jit
def _gate_up_kernel(
    x, weights, chosen, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Compute silu(gate) * up of a pair."""
    pair = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    # the next kernel reads `chosen` before it waits
    await_inputs_alone(EARLY)
    expert = tl.load(chosen + pair).to(tl.int64)
    gates = weights + expert * (2 * INNER * WIDTH) + row[:, None] * WIDTH + at[None, :]
    if INNER % ROWS == 0 and WIDTH == BLOCK:
        gate = tl.load(gates)
        up = tl.load(gates + INNER * WIDTH)
    else:
        inside = (row < INNER)[:, None] & (at < WIDTH)[None, :]
        gate = tl.load(gates, mask=inside, other=0.0)
        up = tl.load(gates + INNER * WIDTH, mask=inside, other=0.0)
    value = tl.load(x + pair // COUNT * WIDTH + at, mask=at < WIDTH, other=0.0)
    kind = value.dtype
    wide = value.to(tl.float32)[None, :]
    # rounded as the separate operations round
    gated = tl.sum(gate.to(tl.float32) * wide, axis=1).to(kind).to(tl.float32)
    upped = tl.sum(up.to(tl.float32) * wide, axis=1).to(kind).to(tl.float32)
    made = (gated * tl.sigmoid(gated)).to(kind).to(tl.float32) * upped
    tl.store(out + pair * INNER + row, made.to(kind), mask=row < INNER)


@triton.jit
def _down_kernel(
    x, weights, chosen, shares, out,
    WIDTH: tl.constexpr, INNER: tl.constexpr, COUNT: tl.constexpr, CHOICES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Multiply a token's pairs by the down weights, and add them up weighted by `shares`."""
    token = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    choice = tl.arange(0, CHOICES)
    at = tl.arange(0, BLOCK)
    present = choice < COUNT
    expert = tl.load(chosen + token * COUNT + choice, mask=present, other=0).to(tl.int64)
    share = tl.load(shares + token * COUNT + choice, mask=present, other=0.0).to(tl.float32)
    downs = weights + expert[:, None, None] * (WIDTH * INNER) + row[None, :, None] * INNER + at[None, None, :]
    inputs = x + (token * COUNT + choice)[:, None, None] * INNER + at[None, None, :] + row[None, :, None] * 0
    inside = present[:, None, None] & (row < WIDTH)[None, :, None]
    made = tl.zeros([CHOICES, ROWS, BLOCK], dtype=tl.float32)
    if INNER == 3 * BLOCK:
        # all of the weights are on their way before the inputs are there
        first = tl.load(downs, mask=inside, other=0.0)
        second = tl.load(downs + BLOCK, mask=inside, other=0.0)
        third = tl.load(downs + 2 * BLOCK, mask=inside, other=0.0)
        await_inputs(EARLY)
        made += first.to(tl.float32) * tl.load(inputs, mask=inside, other=0.0).to(tl.float32)
        made += second.to(tl.float32) * tl.load(inputs + BLOCK, mask=inside, other=0.0).to(tl.float32)
        made += third.to(tl.float32) * tl.load(inputs + 2 * BLOCK, mask=inside, other=0.0).to(tl.float32)
    else:
        await_inputs(EARLY)
        for start in tl.static_range(0, INNER, BLOCK):
            down = tl.load(downs + start, mask=inside, other=0.0).to(tl.float32)
            made += down * tl.load(inputs + start, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    # rounded as the separate operations round
    by_choice = tl.sum(made, axis=2).to(kind).to(tl.float32)
    tl.store(out + token * WIDTH + row, tl.sum(by_choice * share[:, None], axis=0).to(kind), mask=row < WIDTH)


def suits(x: Tensor) -> bool:
    """Whether (T, H) are few tokens, each of which fits a program's registers."""
    return len(x) <= MAX_TOKENS and x.shape[-1] * x.element_size() <= MAX_WIDTH


def few_pairs(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return (T, H), see `Ops.experts`."""
    tokens, count = chosen.shape
    width, inner = x.shape[-1], down.shape[-1]
    gated, out = x.new_empty(tokens * count, inner), torch.empty_like(x)
    shape = {"WIDTH": width, "INNER": inner, "COUNT": count}
    _gate_up_kernel[(tokens * count, triton.cdiv(inner, _GATE_UP.rows))](
        x, gate_up, chosen, gated, **shape,
        ROWS=_GATE_UP.rows, BLOCK=triton.next_power_of_2(width), num_warps=_GATE_UP.warps, **early(),
    )  # fmt: skip
    _down_kernel[(tokens, triton.cdiv(width, _DOWN.rows))](
        gated, down, chosen, weights, out, **shape, CHOICES=triton.next_power_of_2(count),
        ROWS=_DOWN.rows, BLOCK=min(256, inner & -inner), num_warps=_DOWN.warps, **early(),
    )  # fmt: skip
    return out
