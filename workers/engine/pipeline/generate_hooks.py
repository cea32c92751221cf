"""What tells `generate` which rows of a microbatch have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from workers.engine.text.generation import Row


class RowEnds(StoppingCriteria):
    """Tells after each step which rows have ended: by token, stop string, length, deadline, cancellation.

    `on_step` is called first: the step was made.
    """

    def __init__(self, rows: Sequence[Row], on_step: Callable[[], None]) -> None:
        self._rows = rows
        self._on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """One bool a row."""
        newest = input_ids[:, -1].tolist()
        # only now: reading the tokens waits for the card
        self._on_step()
        for row, token in zip(self._rows, newest, strict=True):
            row.add(token)
        return torch.tensor([row.held.settled for row in self._rows], device=input_ids.device)
