"""Keys and values of all sequences, in blocks of a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """A tensor of keys and one of values per layer, (tokens, kv_heads, D) each.

    Block n holds tokens n * block_size to (n + 1) * block_size - 1. The last block is the null block: rows that pad a
    batch write there.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    block_size: int

    @property
    def null_block(self) -> int:
        return len(self.keys[0]) // self.block_size - 1

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
