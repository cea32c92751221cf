"""Says where the kernels of this folder are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from workers.engine.continuous.ops.gluon import runs_on
from workers.engine.continuous.ops.grouped_experts import grouped_experts
from workers.engine.continuous.ops.trial import tried

Multiply = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

#: tokens from which they are faster: by 2 % here, by 9 to 19 % from 2,048 to 3,072, on an H200 for the 30B's sizes
_LEAST_TOKENS = 1024

#: by device, type and sizes
_tried: dict[tuple[Any, ...], Multiply | None] = {}


def hopper_experts_for(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Multiply | None:
    """Return `hopper_experts` if it is faster than `grouped_experts` and does the same, else None.

    The first call for sizes compiles and tries it, which takes seconds and is not possible while a graph is captured.
    """
    _, width, inner = down.shape
    whole = inner % 128 == 0 and width % 256 == 0 and gate_up.is_contiguous() and down.is_contiguous()
    # lines' places are 32 bits wide, and the tensor cores multiply two bytes here
    if len(x) < _LEAST_TOKENS or not whole or x.numel() >= 2**31 or x.element_size() != 2:
        return None
    key = (x.device, x.dtype, gate_up.shape, down.shape, chosen.shape[1])
    if key not in _tried:
        _tried[key] = _choose(x, chosen, gate_up, down)
    return _tried[key]


def _choose(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Multiply | None:
    if not runs_on(x.device):
        return None
    otherwise = f"experts of many tokens are slower: the kernels for Hopper fail with Triton {triton.__version__}"
    return tried(_make, partial(_trial_error, x.dtype, gate_up, down, chosen.shape[1]), otherwise)


def _make() -> Multiply:
    from workers.engine.continuous.ops.hopper.experts import hopper_experts

    return hopper_experts


def _trial_error(dtype: torch.dtype, gate_up: Tensor, down: Tensor, count: int, ours: Multiply) -> float:
    """Return the relative difference from `grouped_experts`, NaN if something is NaN."""
    generator = torch.Generator(down.device).manual_seed(1)
    experts, width, _ = down.shape
    drawn = partial(torch.randn, device=down.device, generator=generator)
    x, logits = drawn(_LEAST_TOKENS, width).to(dtype), drawn(_LEAST_TOKENS, experts)
    # half of the tokens crowd, so that some experts have tiles of all their lines, and others few lines
    logits[::2, :count] += 100
    picked = logits.topk(count).indices.int()
    wanted, _ = grouped_experts(x, picked, gate_up, down)
    made, _ = ours(x, picked, gate_up, down)
    norm = partial(torch.linalg.vector_norm, dtype=torch.float32)
    return float(norm(made - wanted) / norm(wanted).clamp_min(1e-30))
