"""Norms and rotates queries and keys and fills the KV cache in one pass over memory (see `Ops`)."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import Heads


@triton.jit
def _rotate(
    start,
    out,
    weight,
    cos_sin,
    epsilon,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotate one token's `HEADS` heads from `start` to `out`, after a norm if `weight` is given."""
    head = tl.arange(0, LINES)[:, None]
    at = tl.arange(0, BLOCK)
    inside = (head < HEADS) & (at < HALF)[None, :]
    offsets = head * (2 * HALF) + at[None, :]
    first = tl.load(start + offsets, mask=inside, other=0.0)
    second = tl.load(start + offsets + HALF, mask=inside, other=0.0)
    kind = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    if weight is not None:
        squares = tl.sum(first * first + second * second, axis=1) / (2 * HALF)
        scale = tl.rsqrt(squares + epsilon)[:, None]
        low = tl.load(weight + at, mask=at < HALF, other=0.0).to(tl.float32)[None, :]
        high = tl.load(weight + HALF + at, mask=at < HALF, other=0.0).to(tl.float32)[None, :]
        # rounded as in the model's own module
        first = ((first * scale).to(kind).to(tl.float32) * low).to(kind).to(tl.float32)
        second = ((second * scale).to(kind).to(tl.float32) * high).to(kind).to(tl.float32)
    cos = tl.load(cos_sin + at, mask=at < HALF, other=0.0)[None, :]
    sin = tl.load(cos_sin + HALF + at, mask=at < HALF, other=0.0)[None, :]
    tl.store(out + offsets, (first * cos - second * sin).to(kind), mask=inside)
    tl.store(out + offsets + HALF, (second * cos + first * sin).to(kind), mask=inside)


@triton.jit
def _rotate_kernel(
    qkv, query_norm, key_norm, cos_sin, slot_mapping, q, keys, values, epsilon,
    QUERIES: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr, QUERY_LINES: tl.constexpr,
    GROUP_LINES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    start = qkv + token * ((QUERIES + 2 * GROUPS) * 2 * HALF)
    angles = cos_sin + token * (2 * HALF)
    _rotate(start, q + token * (QUERIES * 2 * HALF), query_norm, angles, epsilon, QUERIES, HALF, QUERY_LINES, BLOCK)
    place = tl.load(slot_mapping + token).to(tl.int64) * (GROUPS * 2 * HALF)
    _rotate(start + QUERIES * 2 * HALF, keys + place, key_norm, angles, epsilon, GROUPS, HALF, GROUP_LINES, BLOCK)
    head = tl.arange(0, GROUP_LINES)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = (head < GROUPS) & (at < HALF)
    offsets = head * (2 * HALF) + at
    for part in tl.static_range(2):
        value = tl.load(start + (QUERIES + GROUPS) * 2 * HALF + offsets + part * HALF, mask=inside, other=0.0)
        tl.store(values + place + offsets + part * HALF, value, mask=inside)


@triton.jit
def _rotate_patches_kernel(
    qkv, cos_sin, q, k, HEADS: tl.constexpr, HALF: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    width: tl.constexpr = HEADS * 2 * HALF
    angles = cos_sin + token * (2 * HALF)
    _rotate(qkv + token * 3 * width, q + token * width, None, angles, 0.0, HEADS, HALF, LINES, BLOCK)
    _rotate(qkv + token * 3 * width + width, k + token * width, None, angles, 0.0, HEADS, HALF, LINES, BLOCK)


def rotate(qkv: Tensor, heads: Heads, cos_sin: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> Tensor:
    q = qkv.new_empty(len(qkv), heads.query_heads, heads.head_dim)
    half = heads.head_dim // 2
    _rotate_kernel[(len(qkv),)](
        qkv, heads.query_norm, heads.key_norm, cos_sin, slot_mapping, q, keys, values, heads.epsilon,
        QUERIES=heads.query_heads, GROUPS=heads.kv_heads, HALF=half, BLOCK=triton.next_power_of_2(half),
        QUERY_LINES=triton.next_power_of_2(heads.query_heads), GROUP_LINES=triton.next_power_of_2(heads.kv_heads),
    )  # fmt: skip
    return q


def rotate_patches(qkv: Tensor, heads: int, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    by_part = qkv.view(len(qkv), 3, heads, -1)
    q, k = (torch.empty_like(by_part[:, 0], memory_format=torch.contiguous_format) for _ in range(2))
    half = by_part.shape[-1] // 2
    _rotate_patches_kernel[(len(qkv),)](
        qkv, cos_sin, q, k, HEADS=heads, HALF=half, LINES=triton.next_power_of_2(heads),
        BLOCK=triton.next_power_of_2(half),
    )  # fmt: skip
    return q, k, by_part[:, 2]
