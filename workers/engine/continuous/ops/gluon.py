"""Says where kernels that are written in Gluon run."""

from __future__ import annotations

import logging
from functools import cache

import torch
import triton

log = logging.getLogger(__name__)

#: Gluon is experimental, and no trial ends a kernel that waits forever: so only the releases that the kernels ran with
_TRITONS = ("3.6.",)


@cache
def runs_on(device: torch.device) -> bool:
    """Return whether the card and Triton are those of the kernels; log it once if only the card is."""
    if torch.cuda.get_device_capability(device) != (9, 0):
        return False
    known: bool = triton.__version__.startswith(_TRITONS)
    if not known:
        log.warning("images and experts take longer: kernels for Hopper need Triton 3.6, not %s", triton.__version__)
    return known
