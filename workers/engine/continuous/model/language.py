"""The language model's forward pass over a flat batch of tokens, equal to transformers' own, without its padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.engine.continuous.kv_cache import Cache
from workers.engine.continuous.model.weights import Dense, Experts, Language
from workers.engine.continuous.ops.base import Ops, Route

#: (layer, queries, keys, values) to (T, heads D)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """What joins the first layers at images' tokens (DeepStack, Meng et al., 2024)."""

    #: which rows of the batch
    rows: Tensor
    #: (rows, H) a layer
    features: Sequence[Tensor]


class LanguageModel:
    """Weights, cache and operations; no state of its own but the cache."""

    def __init__(self, weights: Language, cache: Cache, ops: Ops) -> None:
        self.weights = weights
        self.cache = cache
        self._ops = ops
        self.routes: dict[int, Route] = {
            number: partial(ops.route, count=layer.feed_forward.count)
            for number, layer in enumerate(weights.layers)
            if isinstance(layer.feed_forward, Experts)
        }

    def embed(self, tokens: Tensor) -> Tensor:
        """(T) to (T, H)."""
        return self.weights.embedding[tokens]

    def turns(self, positions: Tensor) -> Tensor:
        """(T, 2, D / 2) cosines and sines of positions in time, height and width (T, 3), or of (T) for all."""
        turned = positions[:, None] if positions.dim() == 1 else positions[:, self.weights.axes]
        angles = turned.float() * self.weights.frequencies
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def forward(
        self,
        x: Tensor,
        turns: Tensor,
        places: Tensor,
        attend: Attend,
        deep: Deep | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """(T, H) to (T, H), normed, or to the rows `wanted` alone; keys and values are written at `places` (T)."""
        delta, residual = x, None
        for number, layer in enumerate(self.weights.layers):
            h, residual = self._ops.add_norm(delta, residual, layer.input_norm, self.weights.epsilon)
            keys, values = self.cache.keys[number], self.cache.values[number]
            q, k, v = self._ops.rotate(linear(h, layer.qkv), layer.heads, turns, keys, values, places)
            made = attend(number, q, k, v)
            if wanted is not None and layer is self.weights.layers[-1]:
                # nobody reads the others any more
                made, residual = made[wanted], residual[wanted]
            delta = linear(made, layer.out)
            h, residual = self._ops.add_norm(delta, residual, layer.post_norm, self.weights.epsilon)
            delta = self._feed_forward(number, layer.feed_forward, h)
            if deep is not None and number < len(deep.features):
                delta.index_add_(0, deep.rows, deep.features[number])
        return self._ops.add_norm(delta, residual, self.weights.norm, self.weights.epsilon)[0]

    def logits(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """(T, H) to (T, vocabulary), in `out` where it is given."""
        return torch.mm(h, self.weights.head.t(), out=out)

    def _feed_forward(self, number: int, part: Dense | Experts, h: Tensor) -> Tensor:
        if isinstance(part, Dense):
            return linear(self._ops.silu_product(linear(h, part.gate_up)), part.down)
        weights, chosen = self.routes[number](linear(h, part.router))
        return self._ops.experts(h, weights, chosen, part.gate_up, part.down)
