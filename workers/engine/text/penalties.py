"""Penalties for tokens that a prompt or an answer has already."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.base import SamplingParams


def is_penalized(params: SamplingParams) -> bool:
    """Whether any of the penalties changes logits."""
    return bool(params.presence_penalty or params.frequency_penalty) or params.repetition_penalty not in {None, 1.0}


def penalize(
    logits: Tensor, counts: Tensor, in_prompt: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Return (n, vocabulary) float32 logits after the penalties, which are (n, 1) each.

    `counts` (n, vocabulary) says how often the answer has each token, `in_prompt` whether the prompt has it. First the
    repetition penalty (Keskar et al., "CTRL", 2019), as transformers' RepetitionPenaltyLogitsProcessor computes it;
    then the presence and the frequency penalty, as OpenAI's API documents them.
    """
    in_answer = counts > 0
    scaled = torch.where(logits < 0, logits * repetition, logits / repetition)
    logits = torch.where(in_prompt | in_answer, scaled, logits)
    return logits - frequency * counts - presence * in_answer
