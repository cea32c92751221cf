"""Answers kept to grammars in `generate`'s loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from workers.engine.masks import packed, unpacked
from workers.engine.row import Row


class Guiding(LogitsProcessor):
    """Leaves to each row with a guide the tokens that may come next; its neighbours' scores stay as they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with all but those tokens at minus infinity."""
        masks = {n: row.guide.mask() for n, row in enumerate(self._rows) if row.guide and not row.held.settled}
        if not masks:
            return scores
        at = torch.tensor(list(masks), device=scores.device)
        allowed = unpacked(packed(list(masks.values()), scores.shape[-1]).to(scores.device), scores.shape[-1])
        scores = scores.clone()
        scores[at] = scores[at].masked_fill(~allowed, -torch.inf)
        return scores
