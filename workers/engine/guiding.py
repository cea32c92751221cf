"""Answers kept to grammars in `generate`'s loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from workers.engine.masks import unpacked
from workers.engine.text.generation import Row
from workers.engine.text.grammar import masks


class Guiding(LogitsProcessor):
    """Leaves to each row with a guide the tokens that may come next; its neighbours' scores stay as they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with all but those tokens at minus infinity."""
        guides = {n: row.guide for n, row in enumerate(self._rows) if row.guide and not row.held.settled}
        if not guides:
            return scores
        at = torch.tensor(list(guides), device=scores.device)
        bits = torch.from_numpy(masks(list(guides.values()))).to(scores.device)
        allowed = unpacked(bits, scores.shape[-1])
        scores = scores.clone()
        scores[at] = scores[at].masked_fill(~allowed, -torch.inf)
        return scores
