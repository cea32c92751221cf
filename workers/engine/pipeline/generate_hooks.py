"""Hooks for transformers' `generate`: sample tokens, penalize, enforce grammars, stop rows that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.engine.base import SamplingParams, TokenLogprob
from workers.engine.text.generation import Generation
from workers.engine.text.guide import masks
from workers.engine.text.log_probabilities import log_probabilities, read_logprobs
from workers.engine.text.masks import restrict, unpack_masks
from workers.engine.text.penalties import is_penalized, penalize
from workers.engine.text.token_bytes import TokenBytes


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

    `generate`'s own sampling would also apply top_k and other defaults of the checkpoint's generation config. The order
    is `generate`'s own.
    """
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    return LogitsProcessorList([*warpers, _Sample(params.seed)])


class LogprobProcessor(LogitsProcessor):
    """Keeps the logits of rows that ask for log probabilities; must be the first processor, and changes nothing."""

    def __init__(self, rows: Sequence[Generation], names: TokenBytes) -> None:
        params = [row.pending.prompt.params for row in rows]
        self._tops = {n: each.top_logprobs for n, each in enumerate(params) if each.logprobs}
        self._names = names
        #: (rows that ask, vocabulary)
        self._logits: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._tops:
            self._logits = scores[list(self._tops)]
        return scores

    def of(self, tokens: Sequence[int]) -> dict[int, TokenLogprob]:
        """Return those of the `tokens` that each row got after the latest call, by row."""
        if self._logits is None:
            return {}
        chosen = torch.tensor([tokens[row] for row in self._tops], device=self._logits.device)
        made = log_probabilities(self._logits, chosen, max(self._tops.values()))
        return read_logprobs(self._tops, made, self._names)


class PenaltyProcessor(LogitsProcessor):
    """Applies each row's own penalties; must be made anew for each `generate`."""

    def __init__(self, rows: Sequence[Generation], repetition_penalty: float) -> None:
        """`repetition_penalty` is that of rows which say none."""
        params = [row.pending.prompt.params for row in rows]
        given = [each.repetition_penalty for each in params]
        repetition = [repetition_penalty if each is None else each for each in given]
        self._rows = [n for n, each in enumerate(params) if repetition[n] != 1 or is_penalized(each)]
        #: repetition, presence and frequency
        self._penalties = torch.tensor(
            [(repetition[n], params[n].presence_penalty, params[n].frequency_penalty) for n in self._rows]
        )
        self._prompt_tokens = [rows[n].prompt_tokens for n in self._rows]
        #: of the padded prompts; None before the first token
        self._width: int | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._width is None:
            self._width = input_ids.shape[1]
        ids, logits = input_ids[self._rows], scores[self._rows].float()
        prompts = torch.zeros_like(logits, dtype=torch.bool)
        for row, tokens in enumerate(self._prompt_tokens):
            # without the padding on the left; some models' placeholders of images are behind the vocabulary
            prompt = ids[row, self._width - tokens : self._width]
            prompts[row, prompt[prompt < logits.shape[-1]]] = True
        answers = ids[:, self._width :]
        counts = torch.zeros_like(logits).scatter_add(-1, answers, torch.ones_like(answers, dtype=logits.dtype))
        penalties = self._penalties.to(logits.device).split(1, dim=-1)
        scores = scores.clone()
        scores[self._rows] = penalize(logits, counts, prompts, *penalties).to(scores.dtype)
        return scores


class GuideProcessor(LogitsProcessor):
    """Masks the tokens that a row's guide does not allow; rows without a guide are unchanged."""

    def __init__(self, rows: Sequence[Generation]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        guides = {
            n: row.guide
            for n, row in enumerate(self._rows)
            if row.guide and not (row.guide.free or row.pending.settled)
        }
        if not guides:
            return scores
        at = torch.tensor(list(guides), device=scores.device)
        bits = torch.from_numpy(masks(list(guides.values()))).to(scores.device)
        allowed = unpack_masks(bits, scores.shape[-1])
        scores = scores.clone()
        scores[at] = restrict(scores[at], allowed)
        return scores


class RowStoppingCriteria(StoppingCriteria):
    """Adds each step's tokens to their rows, and stops rows that are settled; calls `on_step` after every step."""

    def __init__(self, rows: Sequence[Generation], on_step: Callable[[], None], logprobs: LogprobProcessor) -> None:
        self._rows = rows
        self._on_step = on_step
        self._logprobs = logprobs

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        newest = input_ids[:, -1].tolist()
        # after reading the tokens, which waits for the card
        self._on_step()
        logprobs = self._logprobs.of(newest)
        for number, (row, token) in enumerate(zip(self._rows, newest, strict=True)):
            row.add(token, logprobs.get(number))
        return torch.tensor([row.pending.settled for row in self._rows], device=input_ids.device)
