"""Attention of whole sequences: by torch's flash kernel, or by cuDNN's, a third faster once it has planned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Spans


def attend(q: Tensor, k: Tensor, v: Tensor, queries: Spans, keys: Spans, causal: bool) -> Tensor:
    """See `Ops`."""
    if q.dtype == torch.float32:
        # no flash kernel computes in it
        return reference.attend(q, k, v, queries, keys, causal)
    if queries.runs and queries is keys:
        return _attend_runs(q, k, v, queries, causal)
    # not torch.nn.attention.varlen's door to it, whose arguments changed from one release to the next
    made, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, queries.starts, keys.starts, queries.longest, keys.longest, 0.0, causal, False,
        scale=q.shape[-1] ** -0.5,
    )  # fmt: skip
    out: Tensor = made.flatten(1)
    return out


def _attend_runs(q: Tensor, k: Tensor, v: Tensor, spans: Spans, causal: bool) -> Tensor:
    """Sequences of one length as one batch."""
    made: list[Tensor] = []
    first = 0
    # where cuDNN does not know the shape or the card, the flash kernel does
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        for count, length in spans.runs:
            rows = slice(first, first + count * length)
            first = rows.stop
            one, two, three = (part[rows].unflatten(0, (count, length)).transpose(1, 2) for part in (q, k, v))
            shared = q.shape[1] != k.shape[1]
            together = scaled_dot_product_attention(one, two, three, is_causal=causal, enable_gqa=shared)
            made.append(together.transpose(1, 2).flatten(0, 1))
    return (made[0] if len(made) == 1 else torch.cat(made)).flatten(1)
