"""Mixture of experts (see `Ops`): sorts tokens by expert, multiplies group by group and sums the outputs per token."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Matrix
from workers.engine.continuous.ops.few_experts import MAX_TOKENS, few_experts
from workers.engine.continuous.ops.norms import silu_product


@triton.jit
def _route_kernel(logits, weights, chosen, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
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
def _count_kernel(chosen, counts, pairs, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pairs
    expert = tl.load(chosen + at, mask=inside, other=0)
    tl.atomic_add(counts + expert, 1, mask=inside)


@triton.jit
def _gather_kernel(
    x, chosen, counts, cursors, ends, places, ordered,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, EXPERTS: tl.constexpr, EXPERT_BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy one token's row to the rows of each of its experts, in any order among that expert's rows."""
    token = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, EXPERT_BLOCK)
    count = tl.load(counts + number, mask=number < EXPERTS, other=0)
    end = tl.cumsum(count, axis=0)
    if token == 0:
        tl.store(ends + number, end, mask=number < EXPERTS)
    at = tl.arange(0, BLOCK)
    row = tl.load(x + token * WIDTH + at, mask=at < WIDTH, other=0.0)
    for n in tl.static_range(COUNT):
        expert = tl.load(chosen + token * COUNT + n)
        begin = tl.sum(tl.where(number == expert, end - count, 0), axis=0)
        place = (begin + tl.atomic_add(cursors + expert, 1)).to(tl.int64)
        tl.store(places + token * COUNT + n, place)
        tl.store(ordered + place * WIDTH + at, row, mask=at < WIDTH)


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
        logits, weights, chosen, EXPERTS=experts, BLOCK=triton.next_power_of_2(experts), COUNT=top_k, num_warps=1
    )
    return weights, chosen


def experts(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    assert isinstance(gate_up, Tensor)
    assert isinstance(down, Tensor)
    if len(x) > MAX_TOKENS and x.dtype != torch.bfloat16:
        # torch's grouped product supports only bfloat16
        return reference.experts(x, weights, chosen, gate_up, down)
    tokens, count = chosen.shape
    width = x.shape[-1]
    multiply = few_experts if tokens <= MAX_TOKENS else _many_experts
    made, places = multiply(x, chosen, gate_up, down)
    out = torch.empty_like(x)
    block = min(1024, triton.next_power_of_2(width))
    _sum_kernel[(tokens, triton.cdiv(width, block))](made, weights, places, out, WIDTH=width, BLOCK=block, COUNT=count)
    return out


def _many_experts(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `few_experts` does with torch's grouped product."""
    tokens, count = chosen.shape
    width, number = x.shape[-1], len(gate_up)
    counts = torch.zeros(2, number, dtype=torch.int32, device=x.device)
    ends = torch.empty(number, dtype=torch.int32, device=x.device)
    places = torch.empty_like(chosen)
    ordered = x.new_empty(tokens * count, width)
    _count_kernel[(triton.cdiv(tokens * count, 256),)](chosen, counts, tokens * count, BLOCK=256)
    _gather_kernel[(tokens,)](
        x, chosen, counts[0], counts[1], ends, places, ordered,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), COUNT=count,
        EXPERTS=number, EXPERT_BLOCK=triton.next_power_of_2(number),
    )  # fmt: skip
    gated = silu_product(torch._grouped_mm(ordered, gate_up.transpose(-2, -1), offs=ends))
    return torch._grouped_mm(gated, down.transpose(-2, -1), offs=ends), places
