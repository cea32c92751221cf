"""The trial of a kernel before its first use: with another card or another Triton it may fail, or be wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

Kernel = TypeVar("Kernel")

log = logging.getLogger(__name__)

#: the relative error that rounding to bfloat16 explains; it is about 0.003
_MAX_ERROR = 0.01


def tried(make: Callable[[], Kernel | None], error_of: Callable[[Kernel], float], otherwise: str) -> Kernel | None:
    """Return what `make` makes, or None if that or `error_of` raises, or if its relative error is too large or NaN.

    A kernel that fails is logged, with `otherwise`, which says what happens without it. `make` returns None where its
    kernel is not meant to run, and imports what only some releases of Triton have.
    """
    try:
        made = make()
        if made is None:
            return None
        off = error_of(made)
        if off <= _MAX_ERROR:
            return made
        reason = f"an error of {off:.2g}"
    except Exception as problem:
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    log.warning("%s (%s)", otherwise, reason)
    return None
