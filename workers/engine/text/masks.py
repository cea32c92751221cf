"""Masks of tokens as tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack_masks(masks: Tensor, width: int) -> Tensor:
    """(n, width) bool of `guides.masks` as a tensor, where that is: false past its end.

    A model's matrix may have more rows than its tokenizer has tokens.
    """
    each = 1 << torch.arange(8, dtype=torch.uint8, device=masks.device)
    tokens = (masks.view(torch.uint8)[:, :, None] & each).bool().flatten(1)[:, :width]
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))
