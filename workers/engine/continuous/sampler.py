"""Chooses tokens where the likeliest will not do: what a guide forbids is left out, some are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.continuous.slot_table import Rows
from workers.engine.continuous.transfer import numbers, upload
from workers.engine.text.grammar import Guide, masks
from workers.engine.text.masks import unpack_masks

# of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), as signed numbers
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """(n, vocabulary) logits to (n) tokens; the other three are (n), `uniform` from 0 up to 1.

    Of each row the likeliest tokens whose probability before them is under `top_p` (Holtzman et al., 2020).
    """
    likely, tokens = (logits.float() / temperature[:, None]).softmax(-1).sort(stable=True, dim=-1, descending=True)
    until = likely.cumsum(-1)
    inside = until - likely < top_p[:, None]
    # what rounding leaves at the end of the sum is nobody's; the likeliest stays, as a tiny top_p is 0 in float32, and
    # sums of what is no number are under nothing
    kept = (inside.sum(-1, keepdim=True) - 1).clamp_min(0)
    target = uniform[:, None] * until.gather(-1, kept)
    return tokens.gather(-1, torch.minimum((until <= target).sum(-1, keepdim=True), kept))[:, 0]


def uniform(seeds: Tensor, counts: Tensor) -> Tensor:
    """(n) float32 from 0 up to 1: number `counts` (n) of the sequence that `seeds` (n, int64) begin."""
    mixed = seeds + counts * _GAMMA
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return _shifted(mixed ^ _shifted(mixed, 31), 40).float() / 2**24


def _drawn(rows: Rows, slots: Tensor, logits: Tensor) -> Tensor:
    """(n) tokens drawn from `logits` (n, vocabulary) for slots that are not greedy and have advanced already."""
    lot = uniform(rows.seed[slots], rows.length[slots])
    return draw(logits, rows.temperature[slots], rows.top_p[slots], lot)


def _shifted(number: Tensor, bits: int) -> Tensor:
    """To the right, as if it had no sign."""
    shifted: Tensor = (number >> bits) & (2 ** (64 - bits) - 1)
    return shifted


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What tokens of some rows are chosen from."""

    #: (n) int64; they have advanced by the likeliest
    slots: Tensor
    #: (n, vocabulary), there until more is computed
    logits: Tensor
    #: (n) int64
    likeliest: Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """How some rows' tokens are chosen; of all others it is the likeliest."""

    #: indices of rows
    drawn: Sequence[int] = ()
    guides: Mapping[int, Guide] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.drawn or self.guides)

    def of(self, made: Logits, rows: Rows) -> Tensor:
        """(n) tokens: the likeliest but for those chosen anew. Of rows with guides it overwrites the logits."""
        tokens, logits = made.likeliest.clone(), made.logits
        if self.guides:
            which = numbers(list(self.guides), logits.device)
            logits[which] = self._allowed(logits[which])
            tokens[which] = logits[which].argmax(-1)
        if self.drawn:
            which = numbers(self.drawn, logits.device)
            tokens[which] = _drawn(rows, made.slots[which], logits[which])
        return tokens

    def _allowed(self, logits: Tensor) -> Tensor:
        bits = upload(torch.from_numpy(masks(list(self.guides.values()))), logits.device)
        return logits.masked_fill(~unpack_masks(bits, logits.shape[-1]), -torch.inf)
