"""How the tokens of each slot are chosen, and which tokens it has already; on the device."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.engine.base import SamplingParams
from workers.engine.continuous.requests import Request
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.model.generation_config import Suppressed
from workers.engine.text.penalties import is_penalized, penalize

#: the columns of float32, and what they are set to
_COLUMNS: dict[str, Callable[[SamplingParams], float]] = {
    # greedy rows are not sampled, but their logits must not be divided by 0
    "temperature": lambda params: params.temperature or 1.0,
    "top_p": lambda params: params.top_p,
    "min_p": lambda params: params.min_p,
    "presence": lambda params: params.presence_penalty,
    "frequency": lambda params: params.frequency_penalty,
    "repetition": lambda params: params.repetition_penalty or 1.0,
}


class SamplingTable:
    """One entry per slot.

    Which tokens a slot has is kept for those with a penalty only. Their table takes 3 bytes for each entry and token of
    the vocabulary, and is made for the first of them.
    """

    def __init__(self, entries: int, vocabulary: int, device: torch.device, suppressed: Suppressed) -> None:
        """Never choose the tokens in `suppressed`; `vocabulary` is the number of logits."""
        self._device = device
        self._shape = (entries, vocabulary)
        self.seed, self.top_k, self._prompt_tokens = (
            torch.zeros(entries, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._columns = torch.zeros((len(_COLUMNS), entries), dtype=torch.float32, device=device)
        columns = dict(zip(_COLUMNS, self._columns, strict=True))
        self.temperature, self.top_p, self.min_p = (columns[name] for name in ("temperature", "top_p", "min_p"))
        self._penalties = tuple(columns[name] for name in ("repetition", "presence", "frequency"))
        #: how often a slot's answer has each token; an answer is shorter than 32,768 tokens
        self._counts: Tensor | None = None
        self._in_prompt: Tensor | None = None
        self.suppresses = bool(suppressed.always or suppressed.first)
        self._always, self._first = (self._mask(ids) for ids in (suppressed.always, suppressed.first))

    def init(self, slots: Sequence[int], requests: Sequence[Request]) -> None:
        """Set the sampling parameters of the slots; their answers have no tokens yet."""
        params = [request.params for request in requests]
        at = numbers(slots, self._device)
        integers = [
            [_seed(each), each.top_k, request.num_tokens] for each, request in zip(params, requests, strict=True)
        ]
        for column, values in zip(
            (self.seed, self.top_k, self._prompt_tokens), zip(*integers, strict=True), strict=True
        ):
            column[at] = numbers(values, self._device)
        floats = torch.tensor([[value(each) for each in params] for value in _COLUMNS.values()], dtype=torch.float32)
        self._columns[:, at] = upload(floats, self._device)
        if penalized := [pair for pair in zip(slots, requests, strict=True) if is_penalized(pair[1].params)]:
            self._init_tokens(*zip(*penalized, strict=True))

    def suppress(self, logits: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
        """Return (n, vocabulary) logits without the tokens that the checkpoint suppresses.

        `lengths` (n) are the tokens of prompt and answer of `slots` (n).
        """
        if not self.suppresses:
            return logits
        is_first = (lengths == self._prompt_tokens[slots])[:, None]
        return logits.masked_fill(self._always | (self._first & is_first), -torch.inf)

    def penalize(self, logits: Tensor, slots: Tensor) -> Tensor:
        """Return (n, vocabulary) logits of penalized slots (n) after their penalties."""
        assert self._counts is not None
        assert self._in_prompt is not None
        columns = (column[slots, None] for column in self._penalties)
        return penalize(logits, self._counts[slots], self._in_prompt[slots], *columns)

    def count(self, slots: Tensor, tokens: Tensor) -> None:
        """Add `tokens` (n) to the answers of penalized slots (n)."""
        assert self._counts is not None
        self._counts[slots, tokens] += 1

    def _init_tokens(self, slots: Sequence[int], requests: Sequence[Request]) -> None:
        if self._counts is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int16, device=self._device)
            self._in_prompt = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        assert self._in_prompt is not None
        at = numbers(slots, self._device)
        self._counts[at], self._in_prompt[at] = 0, False
        # on the host: a copy of each prompt would cost more than one of all
        lengths = torch.tensor([request.num_tokens for request in requests])
        rows = torch.tensor(slots).repeat_interleave(lengths)
        tokens = torch.cat([request.tokens for request in requests])
        where = upload(torch.stack((rows, tokens)), self._device)
        self._in_prompt[where[0], where[1]] = True

    def _mask(self, ids: Sequence[int]) -> Tensor:
        mask = torch.zeros(self._shape[1], dtype=torch.bool)
        mask[[id for id in ids if id < self._shape[1]]] = True
        return mask.to(self._device)


def _seed(params: SamplingParams) -> int:
    return params.seed if params.seed is not None else random.getrandbits(63)
