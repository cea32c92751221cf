"""Work for the card, recorded once and launched again with one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


def record(run: Callable[[], Made], pool: Any) -> tuple[torch.cuda.CUDAGraph, Made]:
    """The graph of `run` and where it writes what it returns; `pool` is memory that graphs share, one at a time."""
    # kernels are compiled and libraries set up outside of the recording
    side = _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        made = run()
    return graph, made


@cache
def _side_stream() -> torch.cuda.Stream:
    """One for all: cuBLAS keeps a workspace for each stream."""
    return torch.cuda.Stream()
