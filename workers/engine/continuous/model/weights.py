"""The language weights of a loaded Qwen3-VL, laid out for a flat forward pass in the memory of the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.continuous.kv_cache import KVCache
from workers.engine.continuous.ops.base import Heads, Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Feed-forward weights of a layer: gate and up in one matrix (2 I, H), down (H, I)."""

    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """A layer's mixture of experts: router (experts, H), gate and up (experts, 2 I, H), down (experts, H, I)."""

    router: Tensor
    gate_up: Matrix
    down: Matrix
    #: experts per token
    top_k: int


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    input_norm: Tensor
    qkv: Matrix
    heads: Heads
    out: Matrix
    post_norm: Tensor
    feed_forward: Dense | Experts


@dataclass(frozen=True, slots=True, eq=False)
class LanguageWeights:
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    epsilon: float
    #: (D / 2) float32
    frequencies: Tensor
    #: (D / 2): the axis whose position each frequency rotates by: 0 time, 1 height, 2 width
    axes: Tensor

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """Allocate a cache of `num_blocks` and the null block for this model."""
        heads = self.layers[0].heads
        shape = ((num_blocks + 1) * block_size, heads.kv_heads, heads.head_dim)
        keys, values = (tuple(self.embedding.new_zeros(shape) for _ in self.layers) for _ in range(2))
        return KVCache(keys, values, block_size)


def language_weights(model: Any, layers: Sequence[Layer] | None = None) -> LanguageWeights:
    """Return the weights of a Qwen3-VL, dense or mixture of experts, with `layers` instead of its own if given.

    Projections of the same input become one matrix.
    """
    text = model.model.language_model
    config = text.config
    frequencies = text.rotary_emb.inv_freq.float()
    return LanguageWeights(
        embedding=text.embed_tokens.weight,
        layers=tuple(layer_weights(layer, config) for layer in text.layers) if layers is None else tuple(layers),
        norm=text.norm.weight,
        head=model.lm_head.weight,
        epsilon=config.rms_norm_eps,
        frequencies=frequencies,
        axes=_axes(text.rotary_emb.mrope_section, len(frequencies)).to(frequencies.device),
    )


def layer_weights(layer: Any, config: Any) -> Layer:
    """Return the weights of one layer of a loaded model."""
    attention = layer.self_attn
    heads = Heads(
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
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
        return Experts(mlp.gate.weight, mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.gate.top_k)
    return Dense(_joined([mlp.gate_proj, mlp.up_proj]), mlp.down_proj.weight)


def _joined(projections: Sequence[nn.Linear]) -> Tensor:
    """Concatenate the projections into one matrix; the modules' own weights become views of its rows."""
    joined = torch.cat([projection.weight.data for projection in projections])
    parts = joined.split([projection.out_features for projection in projections])
    for projection, part in zip(projections, parts, strict=True):
        projection.weight.data = part
    return joined


def _axes(section: Sequence[int], count: int) -> Tensor:
    """Return the axes of interleaved M-RoPE.

    `recomposition_frequencies` of transformers' models/qwen3_vl/modeling_qwen3_vl.py.
    """
    axes = torch.zeros(count, dtype=torch.long)
    for axis in (1, 2):
        axes[axis : section[axis] * 3 : 3] = axis
    return axes
