"""Hooks for transformers' `generate`: sample tokens, enforce grammars, stop rows that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from workers.engine.base import SamplingParams
from workers.engine.text.generation import Generation
from workers.engine.text.grammar import masks
from workers.engine.text.masks import unpack_masks


class _Sample(LogitsProcessor):
    """Samples a token per row and masks all others, so that the greedy choice that follows takes it.

    With a seed it uses its own generator: torch's is shared by all replicas of the process, so another replica would
    change the answer.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._seed is not None and self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        # exponential race: among exponential variables of rates p, the first is token i with probability p[i]
        probs = torch.softmax(scores.float(), dim=-1)
        sampled = (probs / torch.empty_like(probs).exponential_(generator=self._generator)).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, sampled, 0.0)


def sampling(params: SamplingParams) -> LogitsProcessorList:
    """Make the logits processors of one `generate` with `do_sample=False`.

    `generate`'s own sampling would also apply top_k and other defaults of the checkpoint's generation config.
    """
    top_p = [TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(params.temperature), *top_p, _Sample(params.seed)])


class GuideProcessor(LogitsProcessor):
    """Masks the tokens that a row's guide does not allow; rows without a guide are unchanged."""

    def __init__(self, rows: Sequence[Generation]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
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
    """Adds each step's tokens to their rows, and stops rows that are settled; calls `on_step` after every step."""

    def __init__(self, rows: Sequence[Generation], on_step: Callable[[], None]) -> None:
        self._rows = rows
        self._on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        newest = input_ids[:, -1].tolist()
        # after reading the tokens, which waits for the card
        self._on_step()
        for row, token in zip(self._rows, newest, strict=True):
            row.add(token)
        return torch.tensor([row.pending.settled for row in self._rows], device=input_ids.device)
