"""Dense products of few rows, where reading the weights takes the time (see `Ops.norm_linear` and `Ops.linear`).

Each program has a few rows of the weights, all of them in registers, and multiplies them by every row of the input.
The norm is computed by each program again: its input is in the L2 cache, and the weights take longer.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix, Matrix, parts
from workers.engine.continuous.ops.early_launch import await_inputs, await_inputs_alone, early
from workers.engine.continuous.ops.quantize import GROUP, rounded_and_scaled

#: the most rows of an input; with more than `_LARGE_ROWS`, cuBLAS reads weights of over `_LARGE` bytes faster
MAX_ROWS = 4
_LARGE_ROWS, _LARGE = 2, 2**20
#: the same in float8, but one row where weights have more bytes than were measured: all programs round the whole input
MAX_FLOAT8_ROWS, _LARGE_FLOAT8 = 2, 16 * 2**20

#: bytes of the weights in a program, and Triton's warps
_TILE_BYTES, _WARPS = 16_384, 4

#: fewer programs than this leave multiprocessors without work
_MIN_PROGRAMS = 64


@triton.jit
def _product_kernel(
    x, residual, norm, weight, scales, out, normed, total, epsilon,
    TOKENS: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Multiply (TOKENS, WIDTH), after adding `residual` and the RMSNorm if given, by a matrix (OUT, WIDTH).

    In float8 (with `scales`) the input is rounded as it is for many rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    places = weight + row[:, None].to(tl.int64) * WIDTH + at[None, :]
    if OUT % ROWS == 0 and WIDTH == BLOCK:
        matrix = tl.load(places)
    else:
        matrix = tl.load(places, mask=(row < OUT)[:, None] & inside[None, :], other=0.0)
    if scales is not None:
        group = tl.arange(0, BLOCK // GROUP)
        # the rows of a program share a block's scales
        own_scales = scales + tl.program_id(0) * ROWS // GROUP * (WIDTH // GROUP) + group
        weight_scales = tl.load(own_scales, mask=group < WIDTH // GROUP, other=0.0)
    if norm is not None:
        scale = tl.load(norm + at, mask=inside, other=0.0).to(tl.float32)
    if norm is not None and residual is None:
        # the first product of a pass: the kernels after it read what came before it
        await_inputs_alone(EARLY)
    else:
        await_inputs(EARLY)
    for token in tl.static_range(TOKENS):
        value = tl.load(x + token * WIDTH + at, mask=inside, other=0.0)
        kind = value.dtype
        if residual is not None:
            before = tl.load(residual + token * WIDTH + at, mask=inside, other=0.0)
            value = (value.to(tl.float32) + before.to(tl.float32)).to(kind)
            if tl.program_id(0) == 0:
                tl.store(total + token * WIDTH + at, value, mask=inside)
        wide = value.to(tl.float32)
        if norm is not None:
            wide = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + epsilon)
            # rounded twice, as in the model's own module
            value = (wide.to(kind).to(tl.float32) * scale).to(kind)
            if tl.program_id(0) == 0:
                tl.store(normed + token * WIDTH + at, value, mask=inside)
            wide = value.to(tl.float32)
        if scales is not None:
            groups = tl.reshape(wide, [BLOCK // GROUP, GROUP])
            wide = tl.reshape(rounded_and_scaled(groups, weight_scales, matrix.dtype), [BLOCK])
        made = tl.sum(matrix.to(tl.float32) * wide[None, :], axis=1)
        tl.store(out + token * OUT + row, made.to(kind), mask=row < OUT)


def suits(x: Tensor, weight: Matrix) -> bool:
    """Whether the product (T, H) by (O, H) has few rows, each of which fits a program's registers."""
    if x.shape[-1] * x.element_size() > _TILE_BYTES:
        return False
    if isinstance(weight, Float8Matrix):
        # others have blocks that are not whole
        whole = x.shape[-1] % FLOAT8_BLOCK == 0
        return whole and len(x) <= (MAX_FLOAT8_ROWS if weight.values.nbytes <= _LARGE_FLOAT8 else 1)
    most = MAX_ROWS if weight.nbytes <= _LARGE else min(MAX_ROWS, _LARGE_ROWS)
    return len(x) <= most and weight.is_contiguous()


def norm_linear(
    delta: Tensor, residual: Tensor | None, norm: Tensor, epsilon: float, weight: Matrix
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Ops.norm_linear`."""
    normed = torch.empty_like(delta)
    total = delta if residual is None else torch.empty_like(delta)
    return _launch(delta, residual, norm, weight, normed, total, epsilon), normed, total


def linear(x: Tensor, weight: Matrix) -> Tensor:
    """See `Ops.linear`."""
    return _launch(x, None, None, weight, x, x, 0.0)


def _launch(
    x: Tensor, residual: Tensor | None, norm: Tensor | None, weight: Matrix, normed: Tensor, total: Tensor,
    epsilon: float,
) -> Tensor:  # fmt: skip
    matrix, scales = parts(weight)
    count, width = matrix.shape
    out = x.new_empty(len(x), count)
    block = triton.next_power_of_2(width)
    most = max(1, _TILE_BYTES // (block * matrix.element_size()))
    rows = min(most, triton.next_power_of_2(max(1, count // _MIN_PROGRAMS)))
    _product_kernel[(triton.cdiv(count, rows),)](
        x.contiguous(), residual, norm, matrix, scales, out, normed, total, epsilon,
        TOKENS=len(x), OUT=count, WIDTH=width, ROWS=rows, BLOCK=block, num_warps=_WARPS, **early(),
    )  # fmt: skip
    return out
