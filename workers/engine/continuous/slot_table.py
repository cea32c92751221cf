"""State of each slot on the device: newest token, length, block table and sampling parameters."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.base import SamplingParams
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.transfer import numbers, upload


class SlotTable:
    """One entry per slot, and one more for the rows that pad a batch to the size of a CUDA graph."""

    def __init__(self, slots: int, max_blocks: int, null_block: int, device: torch.device) -> None:
        """Let each slot have up to `max_blocks` blocks."""
        self._device = device
        self.padding_slot = slots
        entries = slots + 1

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(entries, dtype=dtype, device=device)

        self.token, self.length, self.mrope_delta, self.seed = (zeros(torch.int64) for _ in range(4))
        self.temperature, self.top_p = (zeros(torch.float32) for _ in range(2))
        self.block_tables = torch.full((entries, max_blocks), null_block, dtype=torch.int32, device=device)

    def init(self, chunks: Sequence[Chunk]) -> None:
        """Set the block tables and sampling parameters of the slots of these first chunks."""
        slots = numbers([chunk.slot for chunk in chunks], self._device)
        tables = torch.zeros((len(chunks), self.block_tables.shape[1]), dtype=torch.int32)
        for table, chunk in zip(tables, chunks, strict=True):
            table[: len(chunk.sequence.blocks)] = torch.tensor(chunk.sequence.blocks, dtype=torch.int32)
        self.block_tables[slots] = upload(tables, self._device)
        self.mrope_delta[slots] = numbers([chunk.request.mrope_delta for chunk in chunks], self._device)
        params = [chunk.request.params for chunk in chunks]
        self.seed[slots] = numbers([_seed(each) for each in params], self._device)
        # greedy rows are not sampled, but their logits must not be divided by 0
        temperatures, top_ps = [each.temperature or 1.0 for each in params], [each.top_p for each in params]
        for column, values in ((self.temperature, temperatures), (self.top_p, top_ps)):
            column[slots] = upload(torch.tensor(values, dtype=torch.float32), self._device)

    def start(self, slots: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """Set the prompt `lengths` (n) and the first answer `tokens` (n) of `slots` (n) after their prefill."""
        self.length[slots] = lengths
        self.token[slots] = tokens

    def advance(self, slots: Tensor, tokens: Tensor) -> None:
        self.token[slots] = tokens
        self.length[slots] += 1
        # padding stays one token long, however often it is computed
        self.length[self.padding_slot].zero_()


def _seed(params: SamplingParams) -> int:
    return params.seed if params.seed is not None else random.getrandbits(63)
