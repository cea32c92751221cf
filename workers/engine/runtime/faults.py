"""What an exception from a model's forward pass means for those who compute after it."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once could have been done."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def is_poisoned(error: BaseException) -> bool:
    """Whether the process's CUDA context is lost, for everybody: every later call would fail too."""
    if is_out_of_memory(error):
        # cuBLAS has its own words for it, which begin like those of a lost context
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error) or "illegal memory" in str(error)


def context_is_lost() -> bool:
    """By asking the card: an error that has other words may be why, and its prompts are to be known while they are."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False
