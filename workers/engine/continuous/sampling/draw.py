"""Draws tokens by their probabilities: temperature, top_k, top_p and min_p, each row by its own numbers."""

from __future__ import annotations

import torch
from torch import Tensor

#: rows with a top_k of at most this need no sort of the vocabulary. One width for all of them, so that a row's sums are
#: rounded alike in any company
SMALL_TOP_K = 128

# constants of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) as int64
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def sample_top_p(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    uniform: Tensor,
    top_k: Tensor | None = None,
    min_p: Tensor | None = None,
) -> Tensor:
    """Sample (n) tokens from (n, vocabulary) logits; the other arguments are (n), `uniform` from 0 up to 1.

    Nucleus sampling (Holtzman et al., 2020): a token is kept if the likelier ones have less than `top_p` together. With
    a `top_k` over 0, they are the `top_k` likeliest (Fan et al., 2018) and have their share of these. With `min_p`, a
    token must have this share of the likeliest one's probability (Nguyen et al., 2024).
    """
    probs, tokens = (logits.float() / temperature[:, None]).softmax(-1).sort(stable=True, dim=-1, descending=True)
    return _choose(probs, tokens, top_p, uniform, top_k, min_p)


def sample_top_k(
    logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor, top_k: Tensor, min_p: Tensor
) -> Tensor:
    """Do the same for rows whose `top_k` is from 1 to SMALL_TOP_K, without sorting the whole vocabulary."""
    width = min(SMALL_TOP_K, logits.shape[-1])
    scaled, tokens = (logits.float() / temperature[:, None]).topk(width)
    behind = torch.arange(width, device=logits.device) >= top_k[:, None]
    probs = scaled.masked_fill(behind, -torch.inf).softmax(-1)
    return _choose(probs, tokens, top_p, uniform, top_k, min_p)


def _choose(
    probs: Tensor, tokens: Tensor, top_p: Tensor, uniform: Tensor, top_k: Tensor | None, min_p: Tensor | None
) -> Tensor:
    """Sample from `tokens` (n, width), the likeliest first."""
    sums = probs.cumsum(-1)
    nucleus, last_of_k = top_p[:, None], None
    if top_k is not None:
        width = probs.shape[-1]
        last_of_k = torch.where(top_k > 0, top_k.clamp_max(width), width)[:, None] - 1
        nucleus = torch.where(top_k[:, None] > 0, nucleus * sums.gather(-1, last_of_k), nucleus)
    # Index of the last token kept. At least 0, the likeliest token: a tiny top_p is 0 in float32, and comparisons
    # with NaN are false.
    last = (sums - probs < nucleus).sum(-1, keepdim=True) - 1
    if last_of_k is not None:
        last = torch.minimum(last, last_of_k)
    if min_p is not None:
        last = torch.minimum(last, (probs >= min_p[:, None] * probs[:, :1]).sum(-1, keepdim=True) - 1)
    last = last.clamp_min(0)
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
