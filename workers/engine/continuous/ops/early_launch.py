"""Lets a kernel start while the one before it still runs, so that it reads its weights before its inputs are there.

In a step of few rows a kernel takes a few microseconds, of which its launch and the first bytes from memory are a large
part. See "Programmatic Dependent Launch" in NVIDIA's CUDA programming guide. Rules for a kernel that is launched early:

- Before it waits, it reads only what was complete before the kernel ahead of it could start, and writes nothing.
- Every program waits, also one that has nothing to do: the next kernel takes the end of this one for the end of all
  before it.
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
    """Let the next kernel start, and wait for the end of all kernels before."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def await_inputs_alone(EARLY: tl.constexpr):
    """Wait, and only then let the next kernel start: it may read what the kernels before this one wrote."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@cache
def early() -> dict[str, bool]:
    """Return arguments for the launch of a kernel that waits; cards before Hopper cannot start it early."""
    can_wait = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"EARLY": True, "launch_pdl": True} if can_wait else {"EARLY": False}
