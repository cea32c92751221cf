"""Chooses tokens: greedy by default, sampled where the temperature is above 0, and masked where a guide is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.continuous.slot_table import SlotTable
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.text.grammar import Guide, masks
from workers.engine.text.masks import unpack_masks

# constants of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) as int64
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def sample_top_p(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Sample (n) tokens from (n, vocabulary) logits; the other arguments are (n), `uniform` from 0 up to 1.

    Nucleus sampling (Holtzman et al., 2020): a token is kept if the likelier ones have less than `top_p` together.
    """
    probs, tokens = (logits.float() / temperature[:, None]).softmax(-1).sort(stable=True, dim=-1, descending=True)
    sums = probs.cumsum(-1)
    inside = sums - probs < top_p[:, None]
    # Index of the last token kept. At least 0, the likeliest token: a tiny top_p is 0 in float32, and comparisons
    # with NaN are false.
    last = (inside.sum(-1, keepdim=True) - 1).clamp_min(0)
    target = uniform[:, None] * sums.gather(-1, last)
    # rounding of the sums must not select a token after the last one
    return tokens.gather(-1, torch.minimum((sums <= target).sum(-1, keepdim=True), last))[:, 0]


def uniform(seeds: Tensor, counts: Tensor) -> Tensor:
    """Return (n) float32 from 0 up to 1: output number `counts` (n) of SplitMix64 seeded with `seeds` (n, int64)."""
    mixed = seeds + counts * _GAMMA
    mixed = (mixed ^ _shift_right(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shift_right(mixed, 27)) * _SECOND
    return _shift_right(mixed ^ _shift_right(mixed, 31), 40).float() / 2**24


def _shift_right(number: Tensor, bits: int) -> Tensor:
    """Shift int64 as if it were unsigned."""
    shifted: Tensor = (number >> bits) & (2 ** (64 - bits) - 1)
    return shifted


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    #: (n) int64; the slot table has already been advanced by the greedy tokens
    slots: Tensor
    #: (n, vocabulary); overwritten by the next forward pass
    logits: Tensor
    #: (n) int64, the likeliest token of each row
    greedy: Tensor


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the tokens of one batch are chosen. Rows that are neither sampled nor guided are greedy."""

    #: rows with a temperature above 0
    sampled: Sequence[int] = ()
    #: by row
    guides: Mapping[int, Guide] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sampled or self.guides)

    def sample(self, batch: Logits, table: SlotTable) -> Tensor:
        """Choose (n) tokens. Overwrites the logits of guided rows."""
        tokens, logits = batch.greedy.clone(), batch.logits
        if self.guides:
            rows = numbers(list(self.guides), logits.device)
            logits[rows] = self._masked(logits[rows])
            tokens[rows] = logits[rows].argmax(-1)
        if self.sampled:
            rows = numbers(self.sampled, logits.device)
            slots = batch.slots[rows]
            lots = uniform(table.seed[slots], table.length[slots])
            tokens[rows] = sample_top_p(logits[rows], table.temperature[slots], table.top_p[slots], lots)
        return tokens

    def _masked(self, logits: Tensor) -> Tensor:
        bits = upload(torch.from_numpy(masks(list(self.guides.values()))), logits.device)
        return logits.masked_fill(~unpack_masks(bits, logits.shape[-1]), -torch.inf)
