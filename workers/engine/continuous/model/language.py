"""The language model's forward pass over a flat batch of tokens: transformers' results without its padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.engine.continuous.kv_cache import KVCache
from workers.engine.continuous.model.weights import Dense, Experts, LanguageWeights
from workers.engine.continuous.ops.base import Ops, Route

#: (layer, queries (T, heads, D)) to (T, heads D); keys and values are in the cache by then
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
        cos_sin: Tensor,
        slot_mapping: Tensor,
        attend: Attend,
        deepstack: DeepStack | None = None,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """Map (T, H) to (T, H) after the final norm, or to `output_rows` of it.

        Writes keys and values to the cache positions `slot_mapping` (T).
        """
        delta, residual = x, None
        for number, layer in enumerate(self.weights.layers):
            h, residual = self._ops.add_norm(delta, residual, layer.input_norm, self.weights.epsilon)
            keys, values = self.cache.keys[number], self.cache.values[number]
            q = self._ops.rotate(self._ops.linear(h, layer.qkv), layer.heads, cos_sin, keys, values, slot_mapping)
            attended = attend(number, q)
            deep = deepstack is not None and number < len(deepstack.features)
            if output_rows is not None and layer is self.weights.layers[-1] and not deep:
                # no later layer reads the other rows
                attended, residual = attended[output_rows], residual[output_rows]
                output_rows = None
            delta = self._ops.linear(attended, layer.out)
            h, residual = self._ops.add_norm(delta, residual, layer.post_norm, self.weights.epsilon)
            delta = self._feed_forward(number, layer.feed_forward, h)
            if deepstack is not None and deep:
                delta = deepstack.add(number, delta)
        h = self._ops.add_norm(delta, residual, self.weights.norm, self.weights.epsilon)[0]
        return h if output_rows is None else h[output_rows]

    def logits(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """Map (T, H) to (T, vocabulary), written to `out` if given."""
        return torch.mm(h, self.weights.head.t(), out=out)

    def _feed_forward(self, number: int, part: Dense | Experts, h: Tensor) -> Tensor:
        if isinstance(part, Dense):
            return self._ops.linear(self._ops.silu_product(self._ops.linear(h, part.gate_up)), part.down)
        weights, chosen = self.routes[number](linear(h, part.router))
        return self._ops.experts(h, weights, chosen, part.gate_up, part.down)
