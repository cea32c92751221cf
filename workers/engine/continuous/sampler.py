"""Chooses tokens where the likeliest will not do: what a guide forbids is left out, some are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.continuous.slot_table import Rows
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.masks import unpacked
from workers.engine.text.grammar import Guide, masks


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What tokens of some rows are chosen from."""

    #: (n) int64; they have advanced by the likeliest
    slots: Tensor
    #: (n, vocabulary), there until more is computed
    logits: Tensor
    #: (n) int64
    likeliest: Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """How some rows' tokens are chosen; of all others it is the likeliest."""

    #: indices of rows
    drawn: Sequence[int] = ()
    guides: Mapping[int, Guide] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.drawn or self.guides)

    def of(self, made: Logits, rows: Rows) -> Tensor:
        """(n) tokens: the likeliest but for those chosen anew. Of rows with guides it overwrites the logits."""
        tokens, logits = made.likeliest.clone(), made.logits
        if self.guides:
            which = numbers(list(self.guides), logits.device)
            logits[which] = self._allowed(logits[which])
            tokens[which] = logits[which].argmax(-1)
        if self.drawn:
            which = numbers(self.drawn, logits.device)
            tokens[which] = rows.draw(made.slots[which], logits[which])
        return tokens

    def _allowed(self, logits: Tensor) -> Tensor:
        bits = upload(torch.from_numpy(masks(list(self.guides.values()))), logits.device)
        return logits.masked_fill(~unpacked(bits, logits.shape[-1]), -torch.inf)
