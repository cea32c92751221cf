"""Tokens drawn at random as prompts ask for it, in `generate`'s loop."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from workers.engine.base import Prompt


class _Draw(LogitsProcessor):
    """Leaves to each row the one token that was drawn, so that the greedy choice after it takes that one.

    With a seed it draws by a generator of its own: torch's is shared by all replicas of the process, and what another
    one draws meanwhile would change the answer.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with all but the drawn tokens at minus infinity."""
        if self._seed is not None and self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        # the least of exponential waiting times at rates p falls on a token with probability p
        chances = torch.softmax(scores.float(), dim=-1)
        drawn = (chances / torch.empty_like(chances).exponential_(generator=self._generator)).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def drawing(prompt: Prompt) -> LogitsProcessorList:
    """For the `logits_processor` of a `generate` that does not sample itself; fresh for each run.

    So neither the checkpoint's own top_k nor any other limit that it was released with cuts what may be drawn.
    """
    cut = [TopPLogitsWarper(prompt.top_p)] if prompt.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(prompt.temperature), *cut, _Draw(prompt.seed)])
