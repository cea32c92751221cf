"""The language model's forward pass over a flat batch of tokens: transformers' results without its padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workers.engine.continuous.kv_cache import KVCache
from workers.engine.continuous.model.weights import Dense, Experts, LanguageWeights, Layer
from workers.engine.continuous.ops.base import Ops, Route

#: (layer, product (T, (query_heads + 2 kv_heads) D)) to (T, heads D): rotates, and writes keys and values to the cache
Attend = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class DeepStack:
    """Image features added to the outputs of the first layers (DeepStack, Meng et al., 2024)."""

    #: (T, 1) bool: which rows of the batch are image tokens
    mask: Tensor
    #: (T): their rows in the features; any number for the others
    rows: Tensor
    #: (features, H) per layer
    features: Sequence[Tensor]

    def add(self, layer: int, x: Tensor) -> Tensor:
        """Return (T, H) with the layer's features added."""
        return x + self.features[layer][self.rows].where(self.mask, 0)


class LanguageModel:
    """Weights, KV cache and operations. Its only state is the cache."""

    def __init__(self, weights: LanguageWeights, cache: KVCache, ops: Ops) -> None:
        self.weights = weights
        self.cache = cache
        self._ops = ops
        #: by layer; benchmarks replace them
        self.routes: dict[int, Route] = {
            number: partial(ops.route, top_k=layer.feed_forward.top_k)
            for number, layer in enumerate(weights.layers)
            if isinstance(layer.feed_forward, Experts)
        }

    def embed(self, tokens: Tensor) -> Tensor:
        """Map (T) tokens to (T, H)."""
        return self.weights.embedding[tokens]

    def cos_sin(self, positions: Tensor) -> Tensor:
        """Return (T, 2, D / 2) cosines and sines for (T, 3) positions: time, height, width; or (T), all three equal."""
        by_frequency = positions[:, None] if positions.dim() == 1 else positions[:, self.weights.axes]
        angles = by_frequency.float() * self.weights.frequencies
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        deepstack: DeepStack | None = None,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """Map (T, H) to (T, H) after the final norm, or to `output_rows` of it."""
        delta, residual = x, None
        for number, layer in enumerate(self.weights.layers):
            qkv, _, residual = self._ops.norm_linear(delta, residual, layer.input_norm, self.weights.epsilon, layer.qkv)
            attended = attend(number, qkv)
            deep = deepstack is not None and number < len(deepstack.features)
            if output_rows is not None and layer is self.weights.layers[-1] and not deep:
                # no later layer reads the other rows
                attended, residual = attended[output_rows], residual[output_rows]
                output_rows = None
            delta = self._ops.linear(attended, layer.out)
            delta, residual = self._feed_forward(number, layer, delta, residual)
            if deepstack is not None and deep:
                delta = deepstack.add(number, delta)
        h = self._ops.add_norm(delta, residual, self.weights.norm, self.weights.epsilon)[0]
        return h if output_rows is None else h[output_rows]

    def logits(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """Map (T, H) to (T, vocabulary), written to `out` if given."""
        return torch.mm(h, self.weights.head.t(), out=out)

    def _feed_forward(self, number: int, layer: Layer, delta: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's output and what it is added to."""
        part = layer.feed_forward
        first = part.gate_up if isinstance(part, Dense) else part.router
        made, h, residual = self._ops.norm_linear(delta, residual, layer.post_norm, self.weights.epsilon, first)
        if isinstance(part, Dense):
            return self._ops.linear(self._ops.silu_product(made), part.down), residual
        weights, chosen = self.routes[number](made)
        return self._ops.experts(h, weights, chosen, part.gate_up, part.down), residual
