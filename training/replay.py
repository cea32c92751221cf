"""Optimiser steps as CUDA graphs, one per layout, so that the host launches one graph per step, not 2,000 kernels.

Knows only capture and replay; the step is passed in. Without CUDA it calls the step itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data import Batch
from training.layout import Layout

Losses = tuple[Tensor, Tensor]
Step = Callable[[Layout, Batch], Losses]
WARM_UPS = 3  # steps before a capture, so that kernels are compiled and the optimiser's state exists
AHEAD = 8  # steps that the host may run ahead of the card


@dataclass(frozen=True)
class Captured:
    """A graph and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    losses: Losses


class Replay:
    """Runs steps, by replay if the device supports it."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device, self._captured = step, device, dict[Layout, Captured]()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._steps = 0

    def capture(self, layout: Layout, batch: Batch) -> None:
        """Capture the step for a layout, after warm-up steps that really run."""
        static = Batch(*(part.to(self._device) for part in batch))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._step(layout, static)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = self._step(layout, static)
        self._captured[layout] = Captured(graph, static, losses)

    def __call__(self, layout: Layout, batch: Batch) -> Losses:
        """Run one step; the returned losses are on the device, and the next step overwrites them."""
        captured = self._captured.get(layout)
        if captured is None:
            return self._step(layout, Batch(*(part.to(self._device) for part in batch)))
        for static, part in zip(captured.batch, batch, strict=True):
            static.copy_(part, non_blocking=True)
        captured.graph.replay()
        self._steps += 1
        if self._steps % AHEAD == 0:
            torch.cuda.synchronize()
        return captured.losses
