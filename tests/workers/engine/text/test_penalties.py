"""Penalties, against transformers' own and against the formula in OpenAI's documentation."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from workers.engine.text.penalties import penalize

VOCABULARY = 12
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=20)


@given(
    prompt=tokens,
    answer=tokens,
    repetition=st.floats(0.1, 10),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    seed=st.integers(0, 1000),
)
def test_tokens_that_are_there_already_are_penalized(
    prompt: list[int], answer: list[int], repetition: float, presence: float, frequency: float, seed: int
) -> None:
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(torch.tensor(answer, dtype=torch.long), minlength=VOCABULARY)[None]
    in_prompt = torch.bincount(torch.tensor(prompt, dtype=torch.long), minlength=VOCABULARY)[None] > 0

    penalized = penalize(
        logits, counts.short(), in_prompt, *(torch.tensor([[each]]) for each in (repetition, presence, frequency))
    )

    ids = torch.tensor([prompt + answer], dtype=torch.long)
    expected = RepetitionPenaltyLogitsProcessor(repetition)(ids, logits) if ids.numel() else logits
    for token in range(VOCABULARY):
        expected[0, token] -= answer.count(token) * frequency + (token in answer) * presence
    assert torch.allclose(penalized, expected, atol=1e-4)
