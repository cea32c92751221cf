"""Keys and values of all sequences, in blocks of a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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

    @classmethod
    def create(
        cls, num_blocks: int, block_size: int, layers: int, kv_heads: int, head_dim: int, like: Tensor
    ) -> KVCache:
        """Allocate `num_blocks` and the null block, with the dtype and device of `like`."""
        shape = ((num_blocks + 1) * block_size, kv_heads, head_dim)
        keys, values = (
            tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(layers)) for _ in range(2)
        )
        return cls(keys, values, block_size)

    @property
    def null_block(self) -> int:
        return len(self.keys[0]) // self.block_size - 1

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
