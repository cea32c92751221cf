"""Chooses tokens: greedy by default, sampled where the temperature is above 0, and masked where a guide is given.

Penalties come first, then masks, temperature, top_k, top_p and min_p, in the order of transformers' `generate`. All of
it is computed on the device, for the rows that ask for it, and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from workers.engine.base import SamplingParams
from workers.engine.continuous.sampling.draw import SMALL_TOP_K, sample_top_k, sample_top_p, uniform
from workers.engine.continuous.sampling.table import SamplingTable
from workers.engine.continuous.slot_table import SlotTable
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.text.guide import Guide, masks
from workers.engine.text.log_probabilities import log_probabilities
from workers.engine.text.masks import restrict, unpack_masks
from workers.engine.text.penalties import is_penalized


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    #: (n) int64; the slot table has already been advanced by the greedy tokens
    slots: Tensor
    #: (n, vocabulary); overwritten by the next forward pass
    logits: Tensor
    #: (n) int64, the likeliest token of each row
    greedy: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """The chosen tokens (n), and what `log_probabilities` says of the rows that ask for it; all on the device."""

    tokens: Tensor
    logprobs: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the tokens of one batch are chosen. Rows that are in none of the fields are greedy."""

    #: rows with a temperature above 0: those whose `top_k` is small, and the others
    sampled_of_few: Sequence[int] = ()
    sampled: Sequence[int] = ()
    #: rows with a penalty
    penalized: Sequence[int] = ()
    #: by row
    guides: Mapping[int, Guide] = field(default_factory=dict)
    #: rows whose log probabilities are asked for, with the number of the likeliest beside each
    logprobs: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def from_params(cls, params: Mapping[int, SamplingParams], guides: Mapping[int, Guide]) -> Self:
        """Make one for rows with these `params` and `guides`, by row."""
        sampled = [(row, 0 < each.top_k <= SMALL_TOP_K) for row, each in params.items() if each.temperature > 0]
        return cls(
            [row for row, of_few in sampled if of_few],
            [row for row, of_few in sampled if not of_few],
            [row for row, each in params.items() if is_penalized(each)],
            guides,
            {row: each.top_logprobs for row, each in params.items() if each.logprobs},
        )

    def sample(self, batch: Logits, table: SlotTable) -> Sampled:
        """Choose a token for each row, and count those of penalized rows."""
        own = table.sampling
        logits, tokens = batch.logits, batch.greedy
        if own.suppresses:
            logits = own.suppress(logits, batch.slots, table.length[batch.slots])
            tokens = logits.argmax(-1)
        rows = sorted({*self.sampled_of_few, *self.sampled, *self.penalized, *self.guides})
        if rows:
            at = numbers(rows, logits.device)
            tokens = tokens.index_copy(0, at, self._choose(rows, logits[at].float(), batch.slots[at], table))
        if self.penalized:
            at = numbers(self.penalized, logits.device)
            own.count(batch.slots[at], tokens[at])
        return Sampled(tokens, self._log_probabilities(logits, tokens))

    def _choose(self, rows: Sequence[int], logits: Tensor, slots: Tensor, table: SlotTable) -> Tensor:
        """Choose tokens (n) for `rows` of the batch, whose `logits` (n, vocabulary) are overwritten."""
        own, device = table.sampling, logits.device
        places = {row: place for place, row in enumerate(rows)}

        def of(some: Sequence[int]) -> Tensor:
            return numbers([places[row] for row in some], device)

        if self.penalized:
            at = of(self.penalized)
            logits[at] = own.penalize(logits[at], slots[at])
        if self.guides:
            at = of(list(self.guides))
            logits[at] = self._masked(logits[at])
        tokens = logits.argmax(-1)
        for some, of_few in ((self.sampled_of_few, True), (self.sampled, False)):
            if some:
                at = of(some)
                tokens[at] = _draw(logits[at], slots[at], table, of_few)
        return tokens

    def _masked(self, logits: Tensor) -> Tensor:
        bits = upload(torch.from_numpy(masks(list(self.guides.values()))), logits.device)
        return restrict(logits, unpack_masks(bits, logits.shape[-1]))

    def _log_probabilities(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        if not self.logprobs:
            return ()
        at = numbers(list(self.logprobs), logits.device)
        return log_probabilities(logits[at], tokens[at], max(self.logprobs.values()))


def _draw(logits: Tensor, slots: Tensor, table: SlotTable, of_few: bool) -> Tensor:
    own: SamplingTable = table.sampling
    numbers = uniform(own.seed[slots], table.length[slots])
    sample = sample_top_k if of_few else sample_top_p
    return sample(logits, own.temperature[slots], own.top_p[slots], numbers, own.top_k[slots], own.min_p[slots])
