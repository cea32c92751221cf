"""Selects the operations for a device."""

from __future__ import annotations

import torch

from workers.engine.continuous.ops.base import Ops


def ops_for(device: torch.device) -> Ops:
    """Return the fused operations on a card, else the reference."""
    if device.type == "cuda":
        # needs Triton, which comes with torch for CUDA only
        from workers.engine.continuous.ops import fused

        return fused
    from workers.engine.continuous.ops import reference

    return reference
