"""RMSNorm and LayerNorm of a sum, and a feed-forward layer's gate (see `Ops`), in one pass over memory each."""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm_kernel(delta, residual, weight, out, total, epsilon, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    x = tl.load(delta + row * WIDTH + at, mask=inside, other=0.0)
    if residual is not None:
        before = tl.load(residual + row * WIDTH + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + before.to(tl.float32)).to(x.dtype)
        tl.store(total + row * WIDTH + at, x, mask=inside)
    wide = x.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + epsilon)
    scale = tl.load(weight + at, mask=inside, other=0.0)
    # rounded twice, as in the model's own module
    made = normed.to(x.dtype).to(tl.float32) * scale.to(tl.float32)
    tl.store(out + row * WIDTH + at, made.to(x.dtype), mask=inside)


@triton.jit
def _layer_norm_kernel(delta, residual, weight, bias, out, total, epsilon, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    x = tl.load(residual + row * WIDTH + at, mask=inside, other=0.0)
    if delta is not None:
        more = tl.load(delta + row * WIDTH + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(x.dtype)
        tl.store(total + row * WIDTH + at, x, mask=inside)
    wide = x.to(tl.float32)
    centred = tl.where(inside, wide - tl.sum(wide, axis=0) / WIDTH, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + epsilon)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + at, (normed * scale + shift).to(x.dtype), mask=inside)


@triton.jit
def _silu_product_kernel(gate_up, out, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    row, column = at // WIDTH, at % WIDTH
    gate = tl.load(gate_up + row * (2 * WIDTH) + column, mask=inside, other=0.0)
    up = tl.load(gate_up + row * (2 * WIDTH) + WIDTH + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    made = (wide * tl.sigmoid(wide)).to(gate.dtype).to(tl.float32) * up.to(tl.float32)
    tl.store(out + at, made.to(gate.dtype), mask=inside)


def add_norm(delta: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(delta)
    total = delta if residual is None else torch.empty_like(delta)
    width = delta.shape[-1]
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(len(delta),)](
        delta, residual, weight, out, total, epsilon, WIDTH=width, BLOCK=block, num_warps=_warps(block)
    )
    return out, total


def add_layer_norm(
    delta: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(residual)
    total = residual if delta is None else torch.empty_like(residual)
    width = residual.shape[-1]
    block = triton.next_power_of_2(width)
    _layer_norm_kernel[(len(residual),)](
        delta, residual, weight, bias, out, total, epsilon, WIDTH=width, BLOCK=block, num_warps=_warps(block)
    )
    return out, total


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # the only function of torch that uses cuBLASLt's fused GELU
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


def silu_product(gate_up: Tensor) -> Tensor:
    rows, width = len(gate_up), gate_up.shape[-1] // 2
    out = gate_up.new_empty(rows, width)
    block = 1024
    _silu_product_kernel[(triton.cdiv(rows * width, block),)](gate_up, out, rows * width, WIDTH=width, BLOCK=block)
    return out


def _warps(block: int) -> int:
    return max(1, min(8, block // 512))
