"""Allocates blocks of the KV cache by number, and finds blocks whose content is known; holds no memory itself.

The design of vLLM's v1/core/block_pool.py: blocks with references, a hash for each full block of a prompt, and
eviction of the least recently used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockManager:
    """`num_blocks` numbered blocks of `block_size` tokens each."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._blocks: dict[bytes, int] = {}
        self._hashes: list[bytes | None] = [None] * num_blocks
        #: without references, and with nothing to find in them
        self._free = list(range(num_blocks - 1, -1, -1))
        #: without references but with a hash, in the order in which they are evicted
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks without references, those included whose content can still be found."""
        return len(self._free) + len(self._unused)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def find(self, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """Return the blocks that hold the longest known beginning of a chain of hashes."""
        found: list[int] = []
        for each in hashes:
            if (block := self._blocks.get(each)) is None:
                break
            found.append(block)
        return tuple(found)

    def num_unused(self, blocks: Sequence[int]) -> int:
        """Return how many of these blocks have no references, so that sharing them leaves fewer free ones."""
        return sum(not self._references[block] for block in blocks)

    def allocate(self, count: int) -> tuple[int, ...]:
        """Take `count` free blocks, evicting the least recently used. Raises ValueError if there are fewer."""
        if count > self.num_free:
            raise ValueError(f"cannot allocate {count} blocks: {self.num_free} are free")
        blocks = tuple(self._free.pop() if self._free else self._evict() for _ in range(count))
        for block in blocks:
            self._references[block] = 1
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Add a reference to each block."""
        for block in blocks:
            if not self._references[block]:
                del self._unused[block]
            self._references[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Remove a reference from each block of a sequence, in the order of its tokens."""
        # a block is found only through those before it, so the last ones are evicted first
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                if self._hashes[block] is None:
                    self._free.append(block)
                else:
                    self._unused[block] = None

    def register(self, block: int, hash: bytes) -> None:
        """Let a block that is allocated be found by its hash, unless another block is."""
        if self._blocks.setdefault(hash, block) == block:
            self._hashes[block] = hash

    def forget(self, block: int) -> None:
        """Let a block no longer be found, because its content was not computed."""
        if (hash := self._hashes[block]) is None:
            return
        del self._blocks[hash]
        self._hashes[block] = None
        if block in self._unused:
            del self._unused[block]
            self._free.append(block)

    def _evict(self) -> int:
        block, _ = self._unused.popitem(last=False)
        self.forget(block)
        return block
