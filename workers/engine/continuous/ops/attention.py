"""Attention of images to themselves (see `Ops`): torch's flash kernel; cuDNN's, a third faster, where it has a plan."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Spans


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    if q.dtype == torch.float32:
        # there is no flash kernel for float32
        return reference.attend(q, k, v, spans)
    if spans.are_common:
        return _attend_one_by_one(q, k, v, spans)
    # called directly: the arguments of torch.nn.attention.varlen changed between releases
    attended, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, spans.cu_seqlens, spans.cu_seqlens, spans.max_seqlen, spans.max_seqlen, 0.0, False, False,
        scale=q.shape[-1] ** -0.5,
    )  # fmt: skip
    out: Tensor = attended.flatten(1)
    return out


def _attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """Attend to one sequence after another: as fast as together for images, and cuDNN needs one plan for a length."""
    parts = (part.split(spans.lengths) for part in (q, k, v))
    # the flash kernel where cuDNN does not support the shape or the card
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        outputs = [_attend_whole(*one) for one in zip(*parts, strict=True)]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).flatten(1)


def _attend_whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
    return scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
