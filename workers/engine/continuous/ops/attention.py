"""Attention of images to themselves (see `Ops`).

On Hopper by a kernel of our own, if it supports the heads. Otherwise by torch's flash kernel, or by cuDNN's, a third
faster, where it has a plan.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Spans
from workers.engine.continuous.ops.gluon import runs_on
from workers.engine.continuous.ops.image_tiles import image_tiles
from workers.engine.continuous.ops.trial import tried

if TYPE_CHECKING:
    from workers.engine.continuous.ops.vision_attention import ImageAttention

#: Lengths of a trial. Enough tiles that programs take several, and enough keys that their places are used again.
_TRIAL = (1000, 333, 128, 700)


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    if q.dtype == torch.float32:
        # there is no flash kernel for float32
        return reference.attend(q, k, v, spans)
    ours = _image_attention(q.device, q.dtype, *q.shape[1:])
    if ours is not None and min(spans.lengths) >= ours.min_length:
        out = q.new_empty(len(q), q.shape[1] * q.shape[2])
        ours(q, k, v, spans, out)
        return out
    if spans.are_common:
        return _attend_one_by_one(q, k, v, spans)
    # called directly: the arguments of torch.nn.attention.varlen changed between releases
    attended, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, spans.cu_seqlens, spans.cu_seqlens, spans.max_seqlen, spans.max_seqlen, 0.0, False, False,
        scale=q.shape[-1] ** -0.5,
    )  # fmt: skip
    whole: Tensor = attended.flatten(1)
    return whole


@cache
def _image_attention(device: torch.device, dtype: torch.dtype, heads: int, width: int) -> ImageAttention | None:
    """Return our kernel if it runs here, the heads are supported, and a trial agrees with the reference."""
    if dtype != torch.bfloat16 or not runs_on(device):
        return None

    def make() -> ImageAttention | None:
        # other releases of Triton may lack what it imports
        from workers.engine.continuous.ops.vision_attention import ImageAttention, supports

        return ImageAttention(device, heads, width) if supports(heads, width) else None

    otherwise = f"images are encoded with a slower attention: ours fails with Triton {triton.__version__}"
    return tried(make, partial(_trial_error, device, heads, width), otherwise)


def _trial_error(device: torch.device, heads: int, width: int, ours: ImageAttention) -> float:
    """Return the relative error, NaN if something is NaN."""
    generator = torch.Generator(device).manual_seed(1)
    drawn = torch.randn(3, sum(_TRIAL), heads, width, device=device, generator=generator)
    q, k, v = drawn.to(torch.bfloat16)
    starts = torch.tensor([0, *_TRIAL], device=device).cumsum(0, dtype=torch.int32)
    tiles = torch.tensor(image_tiles(_TRIAL), dtype=torch.int32, device=device)
    spans = Spans(starts, max(_TRIAL), _TRIAL, tiles)
    wanted = reference.attend(q.float(), k.float(), v.float(), spans)
    out = torch.empty_like(wanted, dtype=q.dtype)
    ours(q, k, v, spans, out)
    return float((out - wanted).norm() / wanted.norm())


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
