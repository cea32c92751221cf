"""Where the tokens of a prompt stand in time, height and width (M-RoPE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def positions_of(count: int, pictures: Sequence[tuple[int, int, int]]) -> Tensor:
    """(count, 3) for a prompt of `count` tokens with pictures (first token, rows and columns of tokens), in order.

    `get_rope_index` of transformers' models/qwen3_vl/modeling_qwen3_vl.py, without videos.
    """
    parts: list[Tensor] = []
    token = position = 0
    for start, rows, columns in pictures:
        parts.append(_line(start - token, position))
        position += start - token
        parts.append(_plane(rows, columns) + position)
        token, position = start + rows * columns, position + max(rows, columns)
    parts.append(_line(count - token, position))
    return torch.cat(parts)


def _line(count: int, first: int) -> Tensor:
    return torch.arange(first, first + count)[:, None].expand(-1, 3)


def _plane(rows: int, columns: int) -> Tensor:
    height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(height), height, width], dim=-1).flatten(0, 1)
