"""Mixture of experts (see `Ops`): routing, the choice of a product by its size, and the sum of outputs per token."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops import few_float8_pairs, few_pairs
from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix, Matrix
from workers.engine.continuous.ops.early_launch import await_inputs, early
from workers.engine.continuous.ops.few_experts import MAX_TOKENS, few_experts
from workers.engine.continuous.ops.few_float8_experts import MAX_TOKENS as MAX_FLOAT8_TOKENS
from workers.engine.continuous.ops.few_float8_experts import few_float8_experts
from workers.engine.continuous.ops.float8 import dequantize
from workers.engine.continuous.ops.float8_grouped_experts import float8_grouped_experts
from workers.engine.continuous.ops.grouped_experts import grouped_experts
from workers.engine.continuous.ops.hopper.support import hopper_experts_for


@triton.jit
def _route_kernel(
    logits, weights, chosen, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, EARLY: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    await_inputs(EARLY)
    score = tl.load(logits + token * EXPERTS + at, mask=at < EXPERTS, other=float("-inf"))
    kind = score.dtype
    score = score.to(tl.float32)
    left = tl.exp(score - tl.max(score, axis=0))
    # NaN is chosen last, and the padding never
    left = tl.where(at < EXPERTS, tl.where(left == left, left, 0.0), -1.0)
    rank = tl.arange(0, COUNT)
    likeliest = tl.zeros([COUNT], dtype=tl.float32)
    for n in tl.static_range(COUNT):
        best = tl.argmax(left, axis=0)
        likeliest = tl.where(rank == n, tl.max(left, axis=0), likeliest)
        tl.store(chosen + token * COUNT + n, best)
        left = tl.where(at == best, -1.0, left)
    tl.store(weights + token * COUNT + rank, (likeliest / tl.sum(likeliest, axis=0)).to(kind))


@triton.jit
def _sum_kernel(made, weights, places, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for n in tl.static_range(COUNT):
        place = tl.load(places + token * COUNT + n).to(tl.int64)
        weight = tl.load(weights + token * COUNT + n).to(tl.float32)
        total += weight * tl.load(made + place * WIDTH + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    tl.store(out + token * WIDTH + at, total.to(out.dtype.element_ty), mask=at < WIDTH)


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    weights = logits.new_empty(tokens, top_k)
    chosen = logits.new_empty(tokens, top_k, dtype=torch.int32)
    _route_kernel[(tokens,)](
        logits, weights, chosen,
        EXPERTS=experts, BLOCK=triton.next_power_of_2(experts), COUNT=top_k, num_warps=1, **early(),
    )  # fmt: skip
    return weights, chosen


def experts(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    if isinstance(gate_up, Float8Matrix) and isinstance(down, Float8Matrix) and _has_whole_blocks(down):
        if few_float8_pairs.suits(x, chosen, down):
            return few_float8_pairs.few_float8_pairs(x, weights, chosen, gate_up, down)
        return _add_up(x, weights, *_float8_multiply(x, chosen, gate_up, down))
    # too small a model to be read in float8, or one of the two was left as it is
    gate_up, down = _in_full(gate_up, x.dtype), _in_full(down, x.dtype)
    if few_pairs.suits(x):
        return few_pairs.few_pairs(x, weights, chosen, gate_up, down)
    return _add_up(x, weights, *_multiply(x, chosen, gate_up, down))


def _in_full(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    return dequantize(matrix).to(dtype) if isinstance(matrix, Float8Matrix) else matrix


def _add_up(x: Tensor, weights: Tensor, made: Tensor, places: Tensor) -> Tensor:
    tokens, count = places.shape
    width = x.shape[-1]
    out = torch.empty_like(x)
    block = min(1024, triton.next_power_of_2(width))
    _sum_kernel[(tokens, triton.cdiv(width, block))](made, weights, places, out, WIDTH=width, BLOCK=block, COUNT=count)
    return out


def _has_whole_blocks(matrix: Float8Matrix) -> bool:
    return all(size % FLOAT8_BLOCK == 0 for size in matrix.values.shape[1:])


def _float8_multiply(x: Tensor, chosen: Tensor, gate_up: Float8Matrix, down: Float8Matrix) -> tuple[Tensor, Tensor]:
    """Return each pair's output (pairs, H) in the experts' order, and each pair's place in it (T, k)."""
    if len(x) <= MAX_FLOAT8_TOKENS:
        return few_float8_experts(x, chosen, gate_up, down)
    many = hopper_experts_for(x, chosen, gate_up, down) or float8_grouped_experts
    return many(x, chosen, gate_up, down)


def _multiply(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `_float8_multiply`, with weights that are not quantized."""
    # the tensor cores do not multiply float32
    if len(x) <= MAX_TOKENS or x.element_size() != 2:
        return few_experts(x, chosen, gate_up, down)
    many = hopper_experts_for(x, chosen, gate_up, down) or grouped_experts
    return many(x, chosen, gate_up, down)
