"""Runs the batches that the scheduler forms: prefill, decode and sampling, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine.continuous.decode import Decode
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.prefill import Prefill
from workers.engine.continuous.sampler import Logits, Sampler
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.slot_table import SlotTable
from workers.engine.continuous.transfer import AsyncTokens, numbers


class ModelRunner:
    """Prefill and decode of one model over one KV cache. Belongs to the engine's thread."""

    def __init__(self, language: LanguageModel, prefill: Prefill, ops: Ops, slots: int, slot_blocks: int) -> None:
        """Let each of `slots` have up to `slot_blocks` blocks. On a card, capture the CUDA graphs."""
        self._device = language.weights.embedding.device
        self._slot_table = SlotTable(slots, slot_blocks, language.cache.null_block, self._device)
        self._prefill = prefill
        self._decode = Decode(language, self._slot_table, ops)
        if self._device.type == "cuda":
            pool = torch.cuda.graph_pool_handle()
            self._decode.capture(slots, pool)
            prefill.capture(pool)

    @torch.inference_mode()
    def init_slots(self, chunks: Sequence[Chunk]) -> None:
        self._slot_table.init(chunks)

    @torch.inference_mode()
    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Compute prompt chunks; return logits for the first answer token of each prompt that is complete, in order."""
        logits = self._prefill.run(chunks)
        completed = [chunk for chunk in chunks if chunk.is_last]
        slots = numbers([chunk.slot for chunk in completed], self._device)
        lengths = numbers([chunk.stop for chunk in completed], self._device)
        tokens = logits.argmax(-1)
        self._slot_table.start(slots, lengths, tokens)
        return Logits(slots, logits, tokens)

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> Logits:
        """Run one decode step; return logits."""
        return self._decode.step(numbers(slots, self._device))

    @torch.inference_mode()
    def sample(self, logits: Logits, sampler: Sampler) -> AsyncTokens:
        """Choose the next token of each row and write it to the slot table; `logits` must be the latest computed."""
        tokens = logits.greedy
        if sampler:
            tokens = sampler.sample(logits, self._slot_table)
            self._slot_table.token[logits.slots] = tokens
        return AsyncTokens(tokens)
