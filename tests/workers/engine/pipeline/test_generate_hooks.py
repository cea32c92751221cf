from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.engine.base import SamplingParams
from workers.engine.pipeline.generate_hooks import sampling

CHANCES = torch.tensor([0.5, 0.3, 0.15, 0.05])
ROWS = 40_000


def shares(**how: Any) -> list[float]:
    """How often each token is drawn, of many rows with the same chances."""
    drawn = drawn_tokens(sampling(SamplingParams(1, **how)))
    return (torch.bincount(drawn, minlength=len(CHANCES)) / ROWS).tolist()


def drawn_tokens(processors: Any) -> Tensor:
    scores: Tensor = processors(torch.zeros(ROWS, 1, dtype=torch.long), CHANCES.log().expand(ROWS, -1).clone())
    return scores.argmax(-1)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        # the square of each, of their sum
        ({"temperature": 0.5}, [0.685, 0.247, 0.062, 0.007]),
        ({"temperature": 1.0, "top_p": 0.79}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.4}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_by_their_chances(how: dict[str, float], expected: list[float]) -> None:
    assert shares(seed=1, **how) == pytest.approx(expected, abs=0.012)


def test_a_seed_repeats_every_draw_and_no_two_steps_are_alike() -> None:
    first, second = (sampling(SamplingParams(1, temperature=1.0, seed=5)) for _ in range(2))
    steps = [drawn_tokens(first) for _ in range(2)]

    assert torch.equal(drawn_tokens(second), steps[0])
    assert torch.equal(drawn_tokens(second), steps[1])
    assert not torch.equal(*steps)
