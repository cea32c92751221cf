"""Dense products (see `Ops.linear`)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from workers.engine.continuous.ops.base import Matrix


def linear(x: Tensor, weight: Matrix) -> Tensor:
    assert isinstance(weight, Tensor)
    return functional.linear(x, weight)
