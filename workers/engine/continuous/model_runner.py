"""Computes what the scheduler decides: prefills pieces, decodes slots. Tokens are there when they are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine.continuous.decode import Decode
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.prefill import Piece, Prefill
from workers.engine.continuous.sampler import Choice, Logits
from workers.engine.continuous.slot_table import Entry, Rows
from workers.engine.continuous.transfer import Tokens, numbers


class Runner:
    """One model's prefill and decode step over one cache. Belongs to the engine's thread."""

    def __init__(self, language: LanguageModel, prefill: Prefill, ops: Ops, slots: int, slot_pages: int) -> None:
        self._device = language.weights.embedding.device
        self._rows = Rows(slots, slot_pages, language.cache.nobodys, self._device)
        self._prefill = prefill
        self._decode = Decode(language, self._rows, ops)
        if self._device.type == "cuda":
            pool = torch.cuda.graph_pool_handle()
            self._decode.capture(slots, pool)
            prefill.capture(pool)

    @torch.inference_mode()
    def enter(self, entries: Sequence[Entry]) -> None:
        """Give slots to prompts, before their first piece."""
        self._rows.enter(entries)

    @torch.inference_mode()
    def prefill(self, pieces: Sequence[Piece]) -> Logits:
        """For the first tokens of the prompts that are all in the cache then, in order."""
        logits = self._prefill.run(pieces)
        done = [piece for piece in pieces if piece.is_last]
        slots = numbers([piece.slot for piece in done], self._device)
        lengths = numbers([piece.request.count for piece in done], self._device)
        tokens = logits.argmax(-1)
        self._rows.begin(slots, lengths, tokens)
        return Logits(slots, logits, tokens)

    @torch.inference_mode()
    def step(self, slots: Sequence[int]) -> Logits:
        """For the next token of each slot."""
        return self._decode.step(numbers(slots, self._device))

    @torch.inference_mode()
    def choose(self, logits: Logits, choice: Choice) -> Tokens:
        """Tokens of these, which were the last to be computed; the slots go on by them."""
        tokens = logits.likeliest
        if choice:
            tokens = choice.of(logits, self._rows)
            self._rows.token[logits.slots] = tokens
        return Tokens(tokens)
