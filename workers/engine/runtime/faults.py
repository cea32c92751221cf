"""Classifies exceptions from a model's forward pass."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device ran out of memory, so that a smaller microbatch may succeed."""
    phrases = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(phrase in str(error) for phrase in phrases)


def is_poisoned(error: BaseException) -> bool:
    """Whether the process's CUDA context is lost: every later CUDA call of the process would fail too."""
    if is_out_of_memory(error):
        # cuBLAS reports it with a message that looks like a lost context
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error) or "illegal memory" in str(error)


def context_is_lost() -> bool:
    """Whether the CUDA context is lost, found by synchronizing with the card.

    A lost context may first show up as an unrelated exception; checking at once blames the prompts that caused it.
    """
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False
