"""Chooses tokens where the likeliest will not do: what a guide forbids is left out, some are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.continuous.rows import Rows
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.guides import Guide
from workers.engine.masks import packed, unpacked


@dataclass(frozen=True, slots=True)
class Choice:
    """How some rows' tokens are chosen; of all others it is the likeliest."""

    #: indices of rows
    drawn: Sequence[int] = ()
    guides: Mapping[int, Guide] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.drawn or self.guides)

    def of(self, likeliest: Tensor, logits: Tensor, rows: Rows, slots: Tensor, lengths: Tensor) -> Tensor:
        """(n) tokens: `likeliest` (n) but for those chosen anew by `logits` (n, vocabulary), of which some are lost.

        The rows are those of `slots` (n), which hold `lengths` (n) tokens.
        """
        tokens = likeliest.clone()
        if self.guides:
            which = numbers(list(self.guides), logits.device)
            logits[which] = self._allowed(logits[which])
            tokens[which] = logits[which].argmax(-1)
        if self.drawn:
            which = numbers(self.drawn, logits.device)
            tokens[which] = rows.draw(slots[which], logits[which], lengths[which])
        return tokens

    def _allowed(self, logits: Tensor) -> Tensor:
        # what the logits come of has been launched: guides think while the card computes
        width = logits.shape[-1]
        bits = upload(packed([guide.mask() for guide in self.guides.values()], width), logits.device)
        return logits.masked_fill(~unpacked(bits, width), -torch.inf)


LIKELIEST = Choice()
