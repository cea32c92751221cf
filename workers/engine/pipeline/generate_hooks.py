"""What tells `generate` which rows of a microbatch have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from workers.engine.base import SamplingParams
from workers.engine.text.generation import Generation
from workers.engine.text.grammar import masks
from workers.engine.text.masks import unpack_masks


class _Sample(LogitsProcessor):
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


def sampling(params: SamplingParams) -> LogitsProcessorList:
    """For the `logits_processor` of a `generate` that does not sample itself; fresh for each run.

    So neither the checkpoint's own top_k nor any other limit that it was released with cuts what may be drawn.
    """
    cut = [TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(params.temperature), *cut, _Sample(params.seed)])


class GuideProcessor(LogitsProcessor):
    """Leaves to each row with a guide the tokens that may come next; its neighbours' scores stay as they are."""

    def __init__(self, rows: Sequence[Generation]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with all but those tokens at minus infinity."""
        guides = {n: row.guide for n, row in enumerate(self._rows) if row.guide and not row.pending.settled}
        if not guides:
            return scores
        at = torch.tensor(list(guides), device=scores.device)
        bits = torch.from_numpy(masks(list(guides.values()))).to(scores.device)
        allowed = unpack_masks(bits, scores.shape[-1])
        scores = scores.clone()
        scores[at] = scores[at].masked_fill(~allowed, -torch.inf)
        return scores


class RowStoppingCriteria(StoppingCriteria):
    """Tells after each step which rows have ended: by token, stop string, length, deadline, cancellation.

    `on_step` is called first: the step was made.
    """

    def __init__(self, rows: Sequence[Generation], on_step: Callable[[], None]) -> None:
        self._rows = rows
        self._on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """One bool a row."""
        newest = input_ids[:, -1].tolist()
        # only now: reading the tokens waits for the card
        self._on_step()
        for row, token in zip(self._rows, newest, strict=True):
            row.add(token)
        return torch.tensor([row.pending.settled for row in self._rows], device=input_ids.device)
