"""Says where the kernels of this folder are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from workers.engine.continuous.ops.base import Float8Matrix, Matrix, parts
from workers.engine.continuous.ops.float8_grouped_experts import float8_grouped_experts
from workers.engine.continuous.ops.gluon import runs_on
from workers.engine.continuous.ops.grouped_experts import grouped_experts
from workers.engine.continuous.ops.trial import tried

Multiply = Callable[[Tensor, Tensor, Any, Any], tuple[Tensor, Tensor]]

#: tokens from which they are faster: by 2 % here (not at all in float8), by 9 to 19 % (14 to 20 %) from 2,048 to 3,072,
#: on an H200 for the 30B's sizes
_LEAST_TOKENS = 1024

#: by device, type and sizes
_tried: dict[tuple[Any, ...], Multiply | None] = {}


def hopper_experts_for(x: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Multiply | None:
    """Return `hopper_experts` if it is faster than the kernels for other cards and does the same, else None.

    The first call for sizes compiles and tries it, which takes seconds and is not possible while a graph is captured.
    """
    float8 = isinstance(down, Float8Matrix)
    weights = [parts(matrix)[0] for matrix in (gate_up, down)]
    _, width, inner = weights[1].shape
    whole = inner % 128 == 0 and width % (128 if float8 else 256) == 0 and all(map(Tensor.is_contiguous, weights))
    # lines' places are 32 bits wide, and activations have 16 bits, in float8 before they are quantized
    if len(x) < _LEAST_TOKENS or not whole or x.numel() >= 2**31 or x.element_size() != 2:
        return None
    key = (x.device, x.dtype, float8, weights[0].shape, weights[1].shape, chosen.shape[1])
    if key not in _tried:
        _tried[key] = _choose(x, chosen, gate_up, down)
    return _tried[key]


def _choose(x: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Multiply | None:
    if not runs_on(x.device):
        return None
    otherwise = f"experts of many tokens are slower: the kernels for Hopper fail with Triton {triton.__version__}"
    return tried(_make, partial(_trial_error, x, gate_up, down, chosen.shape[1]), otherwise)


def _make() -> Multiply:
    from workers.engine.continuous.ops.hopper.experts import hopper_experts

    return hopper_experts


def _trial_error(like: Tensor, gate_up: Matrix, down: Matrix, count: int, ours: Multiply) -> float:
    """Return the relative difference from the kernels for other cards, NaN if something is NaN."""
    generator = torch.Generator(like.device).manual_seed(1)
    drawn = partial(torch.randn, device=like.device, generator=generator)
    experts = len(parts(gate_up)[0])
    x, logits = drawn(_LEAST_TOKENS, like.shape[1]).to(like.dtype), drawn(_LEAST_TOKENS, experts)
    # half of the tokens crowd, so that some experts have tiles of all their lines, and others few lines
    logits[::2, :count] += 100
    picked = logits.topk(count).indices.int()
    others: Multiply = float8_grouped_experts if isinstance(gate_up, Float8Matrix) else grouped_experts
    wanted, _ = others(x, picked, gate_up, down)
    made, _ = ours(x, picked, gate_up, down)
    norm = partial(torch.linalg.vector_norm, dtype=torch.float32)
    return float(norm(made - wanted) / norm(wanted).clamp_min(1e-30))
