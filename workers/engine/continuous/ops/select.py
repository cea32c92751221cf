"""Which operations a device has."""

from __future__ import annotations

import torch

from workers.engine.continuous.ops.base import Ops


def ops_for(device: torch.device) -> Ops:
    """The fused ones on a card; Triton, in which they are written, comes with torch for CUDA."""
    if device.type == "cuda":
        from workers.engine.continuous.ops import fused

        return fused
    from workers.engine.continuous.ops import reference

    return reference
