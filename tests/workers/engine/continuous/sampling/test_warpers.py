"""Draws with top_k, top_p and min_p, against transformers' own warpers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.engine.continuous.sampling.draw import SMALL_TOP_K, sample_top_k, sample_top_p


@dataclass(frozen=True)
class Ask:
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    lot: float


asks = st.builds(
    Ask,
    temperature=st.floats(0.05, 2),
    top_p=st.just(1.0) | st.floats(0.01, 1),
    top_k=st.integers(0, 300),
    min_p=st.just(0.0) | st.floats(0, 1),
    lot=st.floats(0, 1, exclude_max=True, width=32),
)


def warped(logits: Tensor, ask: Ask) -> Tensor:
    """The probabilities (vocabulary) from which `generate` draws, in its own order of warpers."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(ask.temperature)])
    if ask.top_k:
        warpers.append(TopKLogitsWarper(ask.top_k))
    warpers += [TopPLogitsWarper(ask.top_p), MinPLogitsWarper(ask.min_p)]
    return warpers(torch.zeros(1, 1, dtype=torch.long), logits[None]).softmax(-1)[0]


def columns(asks: list[Ask]) -> dict[str, Tensor]:
    named = {"temperature": "temperature", "top_p": "top_p", "uniform": "lot", "min_p": "min_p"}
    floats = {name: torch.tensor([getattr(each, own) for each in asks]) for name, own in named.items()}
    return {**floats, "top_k": torch.tensor([each.top_k for each in asks])}


def drawn(logits: Tensor, asks: list[Ask]) -> list[int]:
    """What each row draws, by the function that is for its top_k."""
    tokens = []
    for row, ask in zip(logits, asks, strict=True):
        sample = sample_top_k if 0 < ask.top_k <= SMALL_TOP_K else sample_top_p
        tokens.append(int(sample(row[None], **columns([ask]))))
    return tokens


@given(ask=asks, seed=st.integers(0, 10_000), vocabulary=st.sampled_from([5, 128, 400]))
def test_a_token_is_drawn_as_transformers_would(ask: Ask, seed: int, vocabulary: int) -> None:
    logits = 3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))

    (token,) = drawn(logits[None], [ask])

    likeliest_first = warped(logits, ask)[logits.argsort(descending=True)]
    sums = likeliest_first.double().cumsum(0)
    # rounding decides about lots at the border of two tokens, and about tokens at a border of the kept
    scaled = (logits.double() / ask.temperature).softmax(-1).sort(descending=True).values
    if ask.top_k:
        scaled = scaled[: ask.top_k] / scaled[: ask.top_k].sum()
    assume((scaled.cumsum(0) - ask.top_p).abs().min() > 1e-5)
    assume((scaled / scaled[0] - ask.min_p).abs().min() > 1e-5)
    assume((sums - ask.lot).abs().min() > 1e-5)
    assert token == logits.argsort(descending=True)[int((sums <= ask.lot).sum())]


@given(st.lists(asks, min_size=2, max_size=6), st.integers(0, 1000))
def test_a_row_draws_the_same_in_any_company(some: list[Ask], seed: int) -> None:
    logits = 3 * torch.randn(len(some), 300, generator=torch.Generator().manual_seed(seed))
    alone = drawn(logits, some)

    for of_few, sample in ((True, sample_top_k), (False, sample_top_p)):
        rows = [n for n, ask in enumerate(some) if (0 < ask.top_k <= SMALL_TOP_K) == of_few]
        if rows:
            together = sample(logits[rows], **columns([some[n] for n in rows]))
            assert together.tolist() == [alone[n] for n in rows]


@given(asks, st.integers(0, 1000))
def test_without_top_k_and_min_p_a_draw_is_what_it_was_before_them(ask: Ask, seed: int) -> None:
    logits = 3 * torch.randn(1, 300, generator=torch.Generator().manual_seed(seed))
    given = columns([Ask(ask.temperature, ask.top_p, 0, 0.0, ask.lot)])
    old = {name: given[name] for name in ("temperature", "top_p", "uniform")}

    assert sample_top_p(logits, **given).tolist() == sample_top_p(logits, **old).tolist()


def test_logits_that_are_no_numbers_draw_a_token_and_break_nothing() -> None:
    broken = torch.tensor([[torch.nan] * 4, [torch.inf, 0, 0, 0], [0.0, 1, 2, 3]])
    given = columns([Ask(1.0, 0.9, 3, 0.1, 0.999)] * 3)

    for sample in (sample_top_k, sample_top_p):
        assert all(0 <= token < 4 for token in sample(broken, **given).tolist())
