"""Masks of tokens as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def packed(masks: Sequence[bytes], width: int) -> Tensor:
    """(n, width / 8) uint8 on the host: a bit a token, and none set past a mask's end."""
    size = -(-width // 8)
    # a model's matrix may have more rows than its tokenizer has tokens
    rows = [mask[:size].ljust(size, b"\0") for mask in masks]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(len(rows), size)


def unpacked(bits: Tensor, width: int) -> Tensor:
    """(n, width) bool, where `bits` are."""
    each = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[:, :, None] & each).bool().flatten(1)[:, :width]
