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

#: groups of one program
_GROUPS = 16


@triton.jit
def scale_of(x, axis: tl.constexpr):
    """Return the scales of groups along `axis`, which is removed; `x` is float32."""
    # 448 is float8_e4m3fn's largest
    return tl.div_rn(tl.maximum(tl.max(tl.abs(x), axis=axis), MIN_AMAX), tl.full([], 448.0, tl.float32))


@triton.jit(do_not_specialize=["tokens", "token_stride", "group_stride"])
def _quantize_kernel(
    x, values, scales, tokens, token_stride, group_stride,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = at < WIDTH
    wide = tl.load(x + token * WIDTH + at, mask=inside & (token < tokens), other=0.0).to(tl.float32)
    scale = scale_of(wide, 1)
    made = tl.div_rn(wide, tl.broadcast_to(scale[:, None], wide.shape)).to(values.dtype.element_ty)
    tl.store(values + token * WIDTH + at, made, mask=inside)
    tl.store(scales + token * token_stride + group * group_stride, scale, mask=group * BLOCK < WIDTH)


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
    at_once = min(_GROUPS, triton.next_power_of_2(groups))
    _quantize_kernel[(rows, triton.cdiv(groups, at_once))](
        x.contiguous(), values, scales, tokens, *scales.stride(),
        WIDTH=width, GROUPS=at_once, BLOCK=FLOAT8_BLOCK, num_warps=4,
    )  # fmt: skip
    return values, scales
