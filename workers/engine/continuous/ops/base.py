"""What both kinds of operations offer. T are tokens, B rows, H the model's width, D a head's; flat, without padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

#: (T, experts) the router's logits in, weights (T, k) that sum to 1 and expert numbers (T, k) out
Route = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """How a layer's queries, keys and values are made of one product."""

    queries: int
    #: heads of keys and values
    groups: int
    width: int
    query_norm: Tensor
    key_norm: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Which stretches of a flat batch are sequences of their own."""

    #: (sequences + 1) int32: where each begins, and where the last one ends
    starts: Tensor
    longest: int
    #: the same on the host
    lengths: tuple[int, ...]
    #: how many that follow each other have which length, where all lengths are common; else empty
    runs: tuple[tuple[int, int], ...] = ()


class Ops(Protocol):
    """A module with these functions."""

    def add_norm(self, delta: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """(T, H) each: RMSNorm of the new residual (Zhang and Sennrich, 2019), and residual + delta."""

    def add_layer_norm(
        self, delta: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """The same with LayerNorm."""

    def rotate(
        self, qkv: Tensor, heads: Heads, turns: Tensor, keys: Tensor, values: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and turn queries and keys, and write keys and values into the cache.

        `qkv` (T, (queries + 2 groups) D); `turns` (T, 2, D / 2) float32, cosines and sines; `keys`, `values` a layer's
        cache (tokens, groups, D), written at `places` (T). Returns (T, heads, D) each. After Su et al., 2021.
        """

    def rotate_patches(self, qkv: Tensor, heads: int, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of `qkv` (T, 3 H): queries and keys turned by `turns` (T, 2, D / 2), and values; (T, heads, D) each."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, queries: Spans, keys: Spans, causal: bool) -> Tensor:
        """(T, heads, D) each, sequence by sequence; of a causal one the last query sees the last key. (T, heads D)."""

    def attend_rows(
        self, q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, page_tokens: int
    ) -> Tensor:
        """One query a row over that row's pages of a layer's cache. Returns (B, heads D).

        `q` (B, heads, D); `tables` (B, pages of a row) int32; `lengths` (B) int32, the newest token included.
        """

    def gelu_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(T, H) to (T, I): GELU of the product, by the approximation with tanh."""

    def silu_product(self, gate_up: Tensor) -> Tensor:
        """(T, 2 I) to (T, I): silu of the first half times the second."""

    def route(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The likeliest `count` of (T, experts): weights of sum 1, and numbers in int32; (T, count) each."""

    def experts(self, x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """(T, H), the weighted sum of each token's experts: `gate_up` (experts, 2 I, H), `down` (experts, H, I)."""
