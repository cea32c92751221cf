"""The operations that every device provides, over flat batches without padding.

In shapes T stands for tokens, B for rows of a decode step, H for the model's hidden size, I for the size inside a
feed-forward layer, D for the size of a head, and k for the experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

#: maps router logits (T, experts) to weights (T, k) that sum to 1 and expert numbers (T, k)
Route = Callable[[Tensor], tuple[Tensor, Tensor]]

#: rows and columns of a float8 matrix that share a scale, and columns of a token that do
FLOAT8_BLOCK = 128


@dataclass(frozen=True, slots=True, eq=False)
class Float8Matrix:
    """Weights in float8 (e4m3fn) with a scale for each block of 128 x 128, as DeepSeek-V3 and Qwen's -FP8 have them.

    Both are contiguous.
    """

    #: (..., O, H) float8_e4m3fn
    values: Tensor
    #: (..., ceil(O / 128), ceil(H / 128)) float32: a weight is its value times its block's scale
    scales: Tensor


Matrix = Tensor | Float8Matrix


def parts(matrix: Matrix) -> tuple[Tensor, Tensor | None]:
    """Return the values of a matrix and the scales of one in float8."""
    return (matrix.values, matrix.scales) if isinstance(matrix, Float8Matrix) else (matrix, None)


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """How a layer's queries, keys and values are laid out in one product, and their norms."""

    query_heads: int
    kv_heads: int
    head_dim: int
    query_norm: Tensor
    key_norm: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The sequences in a flat batch."""

    #: (sequences + 1) int32: where each begins, and where the last one ends
    cu_seqlens: Tensor
    max_seqlen: int
    #: the same on the host
    lengths: tuple[int, ...]
    #: (tiles, 3) int32, on the device (see `image_tiles`)
    tiles: Tensor
    #: whether all lengths are common (see `lengths`)
    are_common: bool = False


class Ops(Protocol):
    """A module with these functions."""

    def add_norm(self, delta: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return the RMSNorm (Zhang and Sennrich, 2019) of residual + delta, and that sum; (T, H) each."""

    def add_layer_norm(
        self, delta: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return the LayerNorm of residual + delta, and that sum; (T, H) each."""

    def rotate(
        self, qkv: Tensor, heads: Heads, cos_sin: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
    ) -> Tensor:
        """Norm and rotate (Su et al., 2021) queries and keys, and write keys and values to the cache.

        `qkv` (T, (query_heads + 2 kv_heads) D); `cos_sin` (T, 2, D / 2) float32; `keys` and `values` are a layer's
        cache (tokens, kv_heads, D), written at `slot_mapping` (T). Returns the queries, (T, query_heads, D).
        """

    def rotate_patches(self, qkv: Tensor, heads: int, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split `qkv` (T, 3 H); rotate queries and keys by `cos_sin` (T, 2, D / 2). Returns (T, heads, D) each."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
        """Attend within each sequence, to all of it; (T, heads, D) in, (T, heads D) out."""

    def attend_paged(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        block_tables: Tensor,
        lengths: Tensor,
        block_size: int,
        out: Tensor,
    ) -> None:
        """Attend from one query per row to that row's blocks of a layer's cache; write (B, heads D) to `out`.

        `q` (B, heads, D); `block_tables` (B, blocks of a row) int32; `lengths` (B) int32 include the newest token.
        Rows of length 0 are not written.
        """

    def attend_step(
        self,
        qkv: Tensor,
        heads: Heads,
        cos_sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        lengths: Tensor,
        block_size: int,
        out: Tensor,
    ) -> None:
        """`rotate` and `attend_paged` of a pass without chunks.

        `slot_mapping` has each row's newest token where `block_tables` and `lengths` have it; the keys and values of
        rows of length 0 may be written or not. What earlier passes wrote may be read before `qkv` is computed.
        """

    def attend_chunks(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        block_tables: Tensor,
        cu_seqlens: Tensor,
        lengths: Tensor,
        block_size: int,
        out: Tensor,
    ) -> None:
        """Attend from prompt chunks to the blocks of their sequences, causally, and write to rows of `out`.

        `q` (T, heads, D); `out` (T, heads D). Sequence s has the rows `cu_seqlens[s]` up to `cu_seqlens[s + 1]`
        (S + 1, int32), which are the last of its `lengths[s]` tokens (S, int32), all of them in the cache; sequences
        of no rows are skipped, rows before and after the chunks are not written. `block_tables` (S, blocks) int32;
        `keys` and `values` are a layer's cache (tokens, kv_heads, D).
        """

    def linear(self, x: Tensor, weight: Matrix) -> Tensor:
        """Multiply (T, H) by a matrix (O, H), which may be quantized: (T, O)."""

    def gelu_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map (T, H) to (T, I): a linear layer and GELU in its tanh approximation."""

    def norm_linear(
        self, delta: Tensor, residual: Tensor | None, norm: Tensor, epsilon: float, weight: Matrix
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `linear` of `add_norm` (T, O), and what `add_norm` returns."""

    def silu_product(self, gate_up: Tensor) -> Tensor:
        """Map (T, 2 I) to (T, I): SiLU of the first half times the second."""

    def route(self, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Return weights that sum to 1 and int32 numbers of the `top_k` likeliest of (T, experts); (T, k) each."""

    def experts(self, x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
        """Return (T, H), the sum of the `chosen` (T, k) experts' outputs weighted by `weights` (T, k).

        `gate_up` (experts, 2 I, H), `down` (experts, H, I).
        """
