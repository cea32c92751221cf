"""Gives sequences their blocks: those that hold the beginning of a prompt already are shared."""

from __future__ import annotations

from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.sequence import Chunk, Sequence


class SequenceBlocks:
    """Blocks of a `BlockManager` for whole sequences.

    Only full blocks of prompts are shared, so nothing is ever written to a block that another sequence reads.
    """

    def __init__(self, block_manager: BlockManager) -> None:
        self._manager = block_manager

    def needed(self, seq: Sequence) -> int:
        """Return how many fewer blocks are free after `take`."""
        found = self._find(seq)
        return self._total(seq) - len(found) + self._manager.num_unused(found)

    def take(self, seq: Sequence) -> None:
        """Give it blocks for its longest answer. Raises ValueError if fewer than `needed` are free."""
        found = self._find(seq)
        # first, or these could be evicted
        self._manager.share(found)
        seq.blocks = found + self._manager.allocate(self._total(seq) - len(found))

    def skip_cached(self, seq: Sequence) -> None:
        """Begin behind the tokens that are in the cache by now, of which more may be than at `take`."""
        found = self._find(seq)
        self._manager.share(found)
        self._manager.free(seq.blocks[: len(found)])
        seq.blocks = found + seq.blocks[len(found) :]
        seq.num_cached = seq.num_prefilled = len(found) * self._manager.block_size

    def register(self, chunk: Chunk) -> None:
        """Let the blocks that a chunk fills be found by later chunks, which are computed in its pass or after it."""
        seq, filled = chunk.sequence, self._filled(chunk)
        for block, hash in zip(seq.blocks[filled], seq.block_hashes[filled], strict=False):
            self._manager.register(block, hash)

    def forget(self, chunk: Chunk) -> None:
        """Invert `register`."""
        for block in chunk.sequence.blocks[self._filled(chunk)]:
            self._manager.forget(block)

    def _find(self, seq: Sequence) -> tuple[int, ...]:
        # the last token is always computed, for the answer's first one: its block is one of the sequence's own
        return self._manager.find(seq.block_hashes[: (seq.num_prompt_tokens - 1) // self._manager.block_size])

    def _total(self, seq: Sequence) -> int:
        return self._manager.blocks_for(seq.max_len)

    def _filled(self, chunk: Chunk) -> slice:
        return slice(chunk.start // self._manager.block_size, chunk.stop // self._manager.block_size)
