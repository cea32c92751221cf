"""Float8 with scales in plain torch: how weights and activations are quantized, and what quantized ones stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix

#: float8_e4m3fn's largest
LARGEST = 448.0

#: a block of zeros gets the scale of this
MIN_AMAX = 1e-10


def quantize_matrix(weight: Tensor) -> Float8Matrix:
    """Quantize (O, H), a scale for each block of 128 x 128: the largest value of a block becomes float8's largest.

    Experts (experts, O, H) are quantized one after another.
    """
    if weight.dim() > 2:
        return stack([quantize_matrix(one) for one in weight])
    rows, columns = weight.shape
    blocks = _blocks(weight.float())
    scales = blocks.abs().amax((1, 3)).clamp(min=MIN_AMAX) / LARGEST
    values = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    whole = values.view(len(scales) * FLOAT8_BLOCK, -1)
    return Float8Matrix(whole[:rows, :columns].contiguous(), scales)


def join(matrices: Sequence[Float8Matrix]) -> Float8Matrix:
    """Join matrices along their rows; all but the last have multiples of 128."""
    return Float8Matrix(_in_bytes(torch.cat, matrices), torch.cat([matrix.scales for matrix in matrices]))


def stack(matrices: Sequence[Float8Matrix]) -> Float8Matrix:
    return Float8Matrix(_in_bytes(torch.stack, matrices), torch.stack([matrix.scales for matrix in matrices]))


def transpose(matrix: Float8Matrix) -> Float8Matrix:
    values = matrix.values.view(torch.uint8).mT.contiguous().view(torch.float8_e4m3fn)
    return Float8Matrix(values, matrix.scales.mT.contiguous())


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Map (T, H) to values (T, H) float8_e4m3fn and scales (T, ceil(H / 128)) float32."""
    tokens, width = x.shape
    groups = pad(x.float(), (0, -width % FLOAT8_BLOCK)).view(tokens, -1, FLOAT8_BLOCK)
    scales = groups.abs().amax(-1).clamp(min=MIN_AMAX) / LARGEST
    values = (groups / scales[..., None]).to(torch.float8_e4m3fn)
    return values.view(tokens, -1)[:, :width].contiguous(), scales


def dequantize(matrix: Float8Matrix) -> Tensor:
    """Return a matrix (..., O, H) in float32."""
    rows, columns = matrix.values.shape[-2:]
    by_row = matrix.scales.repeat_interleave(FLOAT8_BLOCK, dim=-2)[..., :rows, :]
    return matrix.values.float() * by_row.repeat_interleave(FLOAT8_BLOCK, dim=-1)[..., :columns]


def rounded(x: Tensor) -> Tensor:
    """Return (T, H) float32 as a product with a float8 matrix sees it."""
    values, scales = quantize_tokens(x)
    return values.float() * scales.repeat_interleave(FLOAT8_BLOCK, dim=-1)[:, : x.shape[-1]]


def _in_bytes(put: Callable[[list[Tensor]], Tensor], matrices: Sequence[Float8Matrix]) -> Tensor:
    # torch joins no float8
    return put([matrix.values.view(torch.uint8) for matrix in matrices]).view(torch.float8_e4m3fn)


def _blocks(weight: Tensor) -> Tensor:
    """Return (row blocks, 128, column blocks, 128); zeros fill the last ones."""
    rows, columns = weight.shape
    whole = pad(weight, (0, -columns % FLOAT8_BLOCK, 0, -rows % FLOAT8_BLOCK))
    return whole.view(-1, FLOAT8_BLOCK, whole.shape[1] // FLOAT8_BLOCK, FLOAT8_BLOCK)
