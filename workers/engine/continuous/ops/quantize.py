"""Quantizes activations to float8, a scale for each token and 128 columns (see `reference.quantize`)."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.continuous.ops.base import FLOAT8_BLOCK

#: the scale of a group of zeros, times 448
MIN_AMAX = tl.constexpr(1e-10)

#: width of a group, which is that of a block with a scale
GROUP = tl.constexpr(FLOAT8_BLOCK)

#: groups of one program
_GROUPS = 16


@triton.jit
def scale_of(x, axis: tl.constexpr):
    """Return the scales of groups along `axis`, which is removed; `x` is float32."""
    # 448 is float8_e4m3fn's largest
    return tl.div_rn(tl.maximum(tl.max(tl.abs(x), axis=axis), MIN_AMAX), tl.full([], 448.0, tl.float32))


@triton.jit
def _quantized(x, kind: tl.constexpr):
    """Return values and scales of groups, which are float32 and lie along the last axis."""
    last: tl.constexpr = len(x.shape) - 1
    scale = scale_of(x, last)
    return tl.div_rn(x, tl.broadcast_to(tl.expand_dims(scale, last), x.shape)).to(kind), scale


@triton.jit
def rounded_and_scaled(x, weight_scales, kind: tl.constexpr):
    """Quantize and dequantize float32 (..., groups, 128), and multiply by the weights' scales (..., groups)."""
    values, scale = _quantized(x, kind)
    return values.to(tl.float32) * tl.expand_dims(scale * weight_scales, len(x.shape) - 1)


@triton.jit(do_not_specialize=["rows", "tokens", "token_stride", "group_stride"])
def _quantize_kernel(
    x, values, scales, rows, tokens, token_stride, group_stride,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    # a program's groups go on in the next token, as narrow ones would leave most of its lanes without work
    number = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    token, group = number // across, number % across
    column = group[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    at = token.to(tl.int64)[:, None] * WIDTH + column
    inside = (token < rows)[:, None] & (column < WIDTH)
    wide = tl.load(x + at, mask=inside & (token < tokens)[:, None], other=0.0).to(tl.float32)
    made, scale = _quantized(wide, values.dtype.element_ty)
    tl.store(values + at, made, mask=inside)
    tl.store(scales + token * token_stride + group * group_stride, scale, mask=token < rows)


def quantize(x: Tensor, rows_of: int = 1, by_group: bool = False) -> tuple[Tensor, Tensor]:
    """Map (T, H) to values (T', H) float8_e4m3fn and scales (T', ceil(H / 128)) float32.

    T' is T rounded up to a multiple of `rows_of`; the rows added are zeros. With `by_group` the scales of a group lie
    next to one another in memory, as cuBLAS reads them, else those of a token.
    """
    tokens, width = x.shape
    rows, groups = -(-tokens // rows_of) * rows_of, -(-width // FLOAT8_BLOCK)
    values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    if by_group:
        scales = torch.empty(groups, rows, dtype=torch.float32, device=x.device).t()
    else:
        scales = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    if not rows:
        return values, scales
    _quantize_kernel[(triton.cdiv(rows * groups, _GROUPS),)](
        x.contiguous(), values, scales, rows, tokens, *scales.stride(),
        WIDTH=width, GROUPS=_GROUPS, BLOCK=FLOAT8_BLOCK, num_warps=4,
    )  # fmt: skip
    return values, scales
