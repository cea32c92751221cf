"""Token masks as tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def restrict(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return logits (n, vocabulary) without the tokens that are not `allowed` (n, vocabulary).

    Allowed tokens that the checkpoint suppresses, with logits of minus infinity, are chosen where there are no others:
    a guide cannot go on without them.
    """
    return logits.clamp_min(torch.finfo(logits.dtype).min).masked_fill(~allowed, -torch.inf)


def unpack_masks(masks: Tensor, width: int) -> Tensor:
    """Unpack the bits of `guide.masks` (n, tokens / 32), on their device, to bools (n, width).

    A model's output layer may have more rows than its tokenizer has tokens; these are False.
    """
    each = 1 << torch.arange(8, dtype=torch.uint8, device=masks.device)
    tokens = (masks.view(torch.uint8)[:, :, None] & each).bool().flatten(1)[:, :width]
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))
