"""Dense products (see `Ops.linear`); block-scaled float8 ones after DeepSeek-V3's `fp8_gemm` (inference/kernel.py)."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from workers.engine.continuous.ops import few_rows
from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix, Matrix
from workers.engine.continuous.ops.norms import add_norm
from workers.engine.continuous.ops.quantize import quantize


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of a product: rows of the weights, tokens, and Triton's warps and pipeline stages."""

    rows: int
    tokens: int
    warps: int
    stages: int


#: up to this many tokens, the most that were measured, Triton's product is faster than cuBLAS's
FEW_TOKENS = 64


# by value, each number of tokens that is 1 or a multiple of 16 would be compiled on its own
@triton.jit(do_not_specialize=["tokens"])
def _many_kernel(
    x, x_scales, values, scales, out, tokens,
    OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """Multiply quantized tokens (T, WIDTH), with scales (T, groups), by a matrix (OUT, WIDTH)."""
    # programs that share weights run together, as long as their tokens fit in the L2 cache
    tiles = tl.cdiv(OUT, ROWS)
    first = tl.program_id(0) // (TOGETHER * tiles) * TOGETHER
    count = min(tl.cdiv(tokens, TOKENS) - first, TOGETHER)
    within = tl.program_id(0) % (TOGETHER * tiles)
    token = (first + within % count) * TOKENS + tl.arange(0, TOKENS)
    row = within // count * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, BLOCK)
    groups: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    total = tl.zeros([TOKENS, ROWS], dtype=tl.float32)
    inputs = x + (token % tokens)[:, None].to(tl.int64) * WIDTH + depth[None, :]
    weights = values + (row % OUT)[None, :].to(tl.int64) * WIDTH + depth[:, None]
    token_scales = x_scales + (token % tokens) * groups
    weight_scales = scales + row % OUT // BLOCK * groups
    for group in range(groups):
        if WIDTH % BLOCK == 0:
            value = tl.load(inputs + group * BLOCK)
            weight = tl.load(weights + group * BLOCK)
        else:
            inside = group * BLOCK + depth < WIDTH
            value = tl.load(inputs + group * BLOCK, mask=inside[None, :], other=0.0)
            weight = tl.load(weights + group * BLOCK, mask=inside[:, None], other=0.0)
        token_scale, weight_scale = tl.load(token_scales + group), tl.load(weight_scales + group)
        total += tl.dot(value, weight) * token_scale[:, None] * weight_scale[None, :]
    tl.store(
        out + token[:, None].to(tl.int64) * OUT + row[None, :],
        total.to(out.dtype.element_ty),
        mask=(token < tokens)[:, None] & (row < OUT)[None, :],
    )


def norm_linear(
    delta: Tensor, residual: Tensor | None, norm: Tensor, epsilon: float, weight: Matrix
) -> tuple[Tensor, Tensor, Tensor]:
    if few_rows.suits(delta, weight):
        return few_rows.norm_linear(delta, residual, norm, epsilon, weight)
    h, residual = add_norm(delta, residual, norm, epsilon)
    return linear(h, weight), h, residual


def linear(x: Tensor, weight: Matrix) -> Tensor:
    if few_rows.suits(x, weight):
        return few_rows.linear(x, weight)
    if isinstance(weight, Tensor):
        return functional.linear(x, weight)
    if len(x) <= FEW_TOKENS:
        return many_tokens(x, weight, Tile(64, 64, 4, 4))
    if _suits_cublas(x, weight):
        return cublas(x, weight)
    return many_tokens(x, weight, Tile(128, 128, 8, 3) if len(x) > 512 else Tile(128, 64, 4, 4))


def many_tokens(x: Tensor, weight: Float8Matrix, tile: Tile) -> Tensor:
    """Quantize (T, H), and multiply by (O, H)."""
    rows, width = weight.values.shape
    out = x.new_empty(len(x), rows)
    values, scales = quantize(x)
    _many_kernel[(triton.cdiv(rows, tile.rows) * triton.cdiv(len(x), tile.tokens),)](
        values, scales, weight.values, weight.scales, out, len(x),
        OUT=rows, WIDTH=width, ROWS=tile.rows, TOKENS=tile.tokens, BLOCK=FLOAT8_BLOCK, TOGETHER=8,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


@functools.cache
def _has_cublas(device: torch.device) -> bool:
    """Whether cuBLAS multiplies by scales of blocks: from 12.9 on, and on Hopper alone."""
    version = tuple(map(int, (torch.version.cuda or "0.0").split(".")))
    return version >= (12, 9) and torch.cuda.get_device_capability(device)[0] == 9


def _suits_cublas(x: Tensor, weight: Float8Matrix) -> bool:
    rows, width = weight.values.shape
    # it reads a column of the weights' scales in 16 bytes
    aligned = width % (4 * FLOAT8_BLOCK) == 0 and rows % 16 == 0
    return aligned and x.dtype == torch.bfloat16 and _has_cublas(x.device)


def cublas(x: Tensor, weight: Float8Matrix) -> Tensor:
    """Quantize (T, H), and multiply by (O, H) with cuBLAS (see `_suits_cublas`)."""
    # it reads scales in 16 bytes, too, those of a group next to one another
    values, scales = quantize(x, rows_of=4, by_group=True)
    recipes = functional.ScalingType
    made = functional.scaled_mm(
        values, weight.values.t(), scales, recipes.BlockWise1x128, weight.scales.t(), recipes.BlockWise128x128,
        output_dtype=x.dtype,
    )  # fmt: skip
    return made[: len(x)]
