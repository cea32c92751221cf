"""What the device knows of each slot: its newest token, how long it is, where its pages are, how to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.continuous.transfer import numbers, upload


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt that has just got a slot."""

    slot: int
    pages: tuple[int, ...]
    #: see `Request.shift`
    shift: int
    temperature: float
    top_p: float
    seed: int


class Rows:
    """One row a slot, and one more that belongs to nobody, which fills a bucket up."""

    def __init__(self, slots: int, pages: int, nobodys_page: int, device: torch.device) -> None:
        """`pages` that one slot can have at most."""
        self._device = device
        self.nobody = slots
        rows = slots + 1

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(rows, dtype=dtype, device=device)

        self.token, self.length, self.shift = (zeros(torch.int64) for _ in range(3))
        self.tables = torch.full((rows, pages), nobodys_page, dtype=torch.int32, device=device)
        self.temperature, self.top_p = (zeros(torch.float32) for _ in range(2))
        self.seed = zeros(torch.int64)

    def enter(self, entries: Sequence[Entry]) -> None:
        """Give the slots to these prompts."""
        slots = numbers([entry.slot for entry in entries], self._device)
        tables = torch.full((len(entries), self.tables.shape[1]), 0, dtype=torch.int32)
        for row, entry in zip(tables, entries, strict=True):
            row[: len(entry.pages)] = torch.tensor(entry.pages, dtype=torch.int32)
        self.tables[slots] = upload(tables, self._device)
        self.shift[slots] = numbers([entry.shift for entry in entries], self._device)
        self.seed[slots] = numbers([entry.seed for entry in entries], self._device)
        for kept, values in (
            (self.temperature, [entry.temperature for entry in entries]),
            (self.top_p, [entry.top_p for entry in entries]),
        ):
            kept[slots] = upload(torch.tensor(values, dtype=torch.float32), self._device)

    def begin(self, slots: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """The slots (n) hold `lengths` (n) tokens, and `tokens` (n) are the first of their answers."""
        self.length[slots] = lengths
        self.token[slots] = tokens

    def advance(self, slots: Tensor, tokens: Tensor) -> None:
        """One more token each."""
        self.token[slots] = tokens
        self.length[slots] += 1
        # nobody's row stays one token long, however often it is computed
        self.length[self.nobody].zero_()
