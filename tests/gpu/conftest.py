"""What tests on a card share: the operations, inputs, and how far results may be off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

BLOCK = 64
CARD = torch.device("cuda")

#: relative errors that rounding explains: of one operation, and of long sums
ERRORS = {torch.float32: (1e-5, 2e-3), torch.float16: (2e-3, 2e-3), torch.bfloat16: (8e-3, 8e-3)}
each_dtype = pytest.mark.parametrize("dtype", ERRORS, ids=str)
#: query heads, key heads and their width: the 30B's, the bundled model's, the tests'
each_shape = pytest.mark.parametrize("shape", [(32, 4, 128), (4, 2, 64), (4, 2, 16)], ids=str)

Draw = Callable[..., Tensor]


@pytest.fixture
def fused() -> Any:
    """What cards run; imported here, as Triton is only where torch is made for them."""
    from workers.engine.continuous.ops import fused

    return fused


@pytest.fixture
def draw() -> Draw:
    """Normally distributed numbers on the card, the same in every run."""
    generator = torch.Generator(CARD).manual_seed(1)

    def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=CARD, generator=generator).to(dtype)

    return drawn


def assert_close(made: Sequence[Tensor], wanted: Sequence[Tensor], most: float) -> None:
    for one, other in zip(made, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert error_of(one, other) <= most


def error_of(made: Tensor, wanted: Tensor) -> float:
    """Relative; infinite where something is no number."""
    off = (made.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30)
    return float(off.nan_to_num(torch.inf))
