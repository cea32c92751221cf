"""A loaded Qwen3-VL's language weights as a flat forward pass uses them; they stay the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.continuous.ops.base import Heads


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A layer's feed-forward part: gate and up (2 I, H) in one, down (H, I)."""

    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """A layer's mixture of experts: router (experts, H), gate and up (experts, 2 I, H), down (experts, H, I)."""

    router: Tensor
    gate_up: Tensor
    down: Tensor
    #: experts of a token
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder layer."""

    input_norm: Tensor
    qkv: Tensor
    heads: Heads
    out: Tensor
    post_norm: Tensor
    feed_forward: Dense | Experts


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """The language model."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    epsilon: float
    #: (D / 2) float32
    frequencies: Tensor
    #: (D / 2): which of time, height and width turns each frequency
    axes: Tensor


def language_of(model: Any) -> Language:
    """The weights of a Qwen3-VL (dense or of experts), whose products that share an input become one each."""
    text = model.model.language_model
    config = text.config
    frequencies = text.rotary_emb.inv_freq.float()
    return Language(
        embedding=text.embed_tokens.weight,
        layers=tuple(_layer(layer, config) for layer in text.layers),
        norm=text.norm.weight,
        head=model.lm_head.weight,
        epsilon=config.rms_norm_eps,
        frequencies=frequencies,
        axes=_axes(text.rotary_emb.mrope_section, len(frequencies)).to(frequencies.device),
    )


def _layer(layer: Any, config: Any) -> Layer:
    attention = layer.self_attn
    heads = Heads(
        queries=config.num_attention_heads,
        groups=config.num_key_value_heads,
        width=attention.head_dim,
        query_norm=attention.q_norm.weight,
        key_norm=attention.k_norm.weight,
        epsilon=config.rms_norm_eps,
    )
    return Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=_joined([attention.q_proj, attention.k_proj, attention.v_proj]),
        heads=heads,
        out=attention.o_proj.weight,
        post_norm=layer.post_attention_layernorm.weight,
        feed_forward=_feed_forward(layer.mlp),
    )


def _feed_forward(mlp: Any) -> Dense | Experts:
    if hasattr(mlp, "experts"):
        made = mlp.experts
        return Experts(mlp.gate.weight, made.gate_up_proj, made.down_proj, mlp.gate.top_k)
    return Dense(_joined([mlp.gate_proj, mlp.up_proj]), mlp.down_proj.weight)


def _joined(products: Sequence[nn.Linear]) -> Tensor:
    """One matrix of several; the modules' own weights become its rows."""
    joined = torch.cat([product.weight.data for product in products])
    for product, part in zip(products, joined.split([product.out_features for product in products]), strict=True):
        product.weight.data = part
    return joined


def _axes(section: Sequence[int], count: int) -> Tensor:
    """Interleaved M-RoPE: `recomposition_frequencies` of transformers' models/qwen3_vl/modeling_qwen3_vl.py."""
    axes = torch.zeros(count, dtype=torch.long)
    for axis in (1, 2):
        axes[axis : section[axis] * 3 : 3] = axis
    return axes
