"""Keys and values of all prompts, in pages of a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.continuous.model.weights import Language


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """One tensor of keys and one of values a layer, (tokens, groups, D) each; page n is tokens n P to (n + 1) P - 1.

    The last page belongs to nobody: rows that only fill a bucket write there.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    page_tokens: int

    @classmethod
    def of(cls, weights: Language, pages: int, page_tokens: int) -> Cache:
        """A cache for this model of `pages` and nobody's."""
        heads, like = weights.layers[0].heads, weights.embedding

        def tensors() -> tuple[Tensor, ...]:
            shape = ((pages + 1) * page_tokens, heads.groups, heads.width)
            return tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in weights.layers)

        return cls(tensors(), tensors(), page_tokens)

    @property
    def nobodys(self) -> int:
        """The page that belongs to nobody."""
        return len(self.keys[0]) // self.page_tokens - 1

    @property
    def nbytes(self) -> int:
        """What all of it takes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
