"""Allocates blocks of the KV cache by number; holds no memory itself."""

from __future__ import annotations

from collections.abc import Sequence


class BlockManager:
    """`num_blocks` numbered blocks of `block_size` tokens each."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` free blocks. Raises ValueError if there are fewer."""
        if count > len(self._free):
            raise ValueError(f"cannot allocate {count} blocks: {len(self._free)} are free")
        return tuple(self._free.pop() for _ in range(count))

    def free(self, blocks: Sequence[int]) -> None:
        self._free.extend(reversed(blocks))
