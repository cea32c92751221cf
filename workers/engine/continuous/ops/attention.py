"""Attention within sequences (see `Ops`): torch's flash kernel, or cuDNN's, a third faster once it has a plan."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Spans


def attend(q: Tensor, k: Tensor, v: Tensor, queries: Spans, keys: Spans, causal: bool) -> Tensor:
    if q.dtype == torch.float32:
        # there is no flash kernel for float32
        return reference.attend(q, k, v, queries, keys, causal)
    if queries.runs and queries is keys:
        return _attend_runs(q, k, v, queries, causal)
    # called directly: the arguments of torch.nn.attention.varlen changed between releases
    attended, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, queries.cu_seqlens, keys.cu_seqlens, queries.max_seqlen, keys.max_seqlen, 0.0, causal, False,
        scale=q.shape[-1] ** -0.5,
    )  # fmt: skip
    out: Tensor = attended.flatten(1)
    return out


def _attend_runs(q: Tensor, k: Tensor, v: Tensor, spans: Spans, causal: bool) -> Tensor:
    """Attend to sequences of equal length as one batch."""
    outputs: list[Tensor] = []
    first = 0
    # the flash kernel where cuDNN does not support the shape or the card
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        for count, length in spans.runs:
            rows = slice(first, first + count * length)
            first = rows.stop
            q_batch, k_batch, v_batch = (part[rows].unflatten(0, (count, length)).transpose(1, 2) for part in (q, k, v))
            grouped = q.shape[1] != k.shape[1]
            attended = scaled_dot_product_attention(q_batch, k_batch, v_batch, is_causal=causal, enable_gqa=grouped)
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).flatten(1)
