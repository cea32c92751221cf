"""State of each slot: on the device its newest token, block table and sampling, on the host what inputs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from workers.engine.continuous.sampling.table import SamplingTable
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.model.generation_config import NOTHING_SUPPRESSED, Suppressed


class SlotTable:
    """One entry per slot, and one more for the rows that pad a batch to the size of a CUDA graph."""

    def __init__(
        self,
        slots: int,
        max_blocks: int,
        null_block: int,
        device: torch.device,
        vocabulary: int,
        suppressed: Suppressed = NOTHING_SUPPRESSED,
    ) -> None:
        """Let each slot have up to `max_blocks` blocks; `vocabulary` is the number of logits."""
        self._device = device
        self.padding_slot = slots
        entries = slots + 1

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(entries, dtype=dtype, device=device)

        #: newest token of the answer, and tokens in the cache
        self.token, self.length = (zeros(torch.int64) for _ in range(2))
        self.sampling = SamplingTable(entries, vocabulary, device, suppressed)
        self.block_tables = torch.full((entries, max_blocks), null_block, dtype=torch.int32, device=device)
        self.host_block_tables = numpy.full((entries, max_blocks), null_block, dtype=numpy.int32)
        self.host_mrope_delta = numpy.zeros(entries, dtype=numpy.int32)

    def init(self, chunks: Sequence[Chunk]) -> None:
        """Set the block tables and sampling parameters of the slots of these first chunks."""
        rows = [chunk.slot for chunk in chunks]
        for chunk in chunks:
            blocks = chunk.sequence.blocks
            self.host_block_tables[chunk.slot, : len(blocks)] = blocks
            self.host_mrope_delta[chunk.slot] = chunk.request.mrope_delta
        slots = numbers(rows, self._device)
        self.block_tables[slots] = upload(torch.from_numpy(self.host_block_tables[rows]), self._device)
        self.sampling.init(rows, [chunk.request for chunk in chunks])

    def advance(self, slots: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """Set the newest `tokens` (n) of `slots` (n), and how many `lengths` (n) are in the cache before them."""
        self.token[slots] = tokens
        self.length[slots] = lengths
