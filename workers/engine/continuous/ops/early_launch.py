"""Lets a kernel be launched before the one ahead of it has ended, and wait for it on the card.

In a step of few rows the kernels are so short that the gaps between them take as long. See "Programmatic Dependent
Launch" in NVIDIA's CUDA programming guide.
"""

# Triton has no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl


@triton.jit
def await_inputs(EARLY: tl.constexpr):
    """Wait for what was launched before; a kernel must call it before it reads or writes memory."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@cache
def early() -> dict[str, bool]:
    """Return arguments for the launch of a kernel that calls `await_inputs`; cards before Hopper cannot wait."""
    can_wait = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"EARLY": True, "launch_pdl": True} if can_wait else {"EARLY": False}
