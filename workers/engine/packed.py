"""Experts whose weights are quantised: a layer's are unpacked for its grouped product, and let go of after it.

Registered with transformers under a name of its own, because `generate` replaces its grouped experts by gathered ones
while it decodes: those copy a whole matrix for each row and expert, and quantised tensors cannot be gathered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

#: the name to give as `experts_implementation`
EXPERTS = "vqa_packed"
#: the names of an experts module's weights
PARTS = (".experts.gate_up_proj", ".experts.down_proj")


def register_experts() -> None:
    """Make EXPERTS known to transformers."""
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _packed_forward)


def unpacked(weight: Any) -> Tensor:
    """The weight as it is multiplied, in the model's dtype."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state)  # type: ignore[no-any-return]
    if not hasattr(weight, "qdata"):
        return weight  # type: ignore[no-any-return]
    # torchao's own unpacking goes over float32: three times the memory and the time
    stored, scale = weight.qdata, weight.scale.to(weight.dtype)
    return torch.mul(stored, scale) if stored.dtype == torch.int8 else stored.to(weight.dtype).mul_(scale)


class _Unpacking:
    """An experts module that unpacks a weight when it is read."""

    def __init__(self, experts: nn.Module) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._experts, name)
        return unpacked(value) if isinstance(value, nn.Parameter) else value


def _packed_forward(experts: Any, hidden: Tensor, experts_of: Tensor, weights_of: Tensor) -> Tensor:
    # transformers calls a registered implementation by position
    return grouped_mm_experts_forward(_Unpacking(experts), hidden, experts_of, weights_of)  # type: ignore[arg-type]
