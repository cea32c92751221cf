"""CUDA graphs: work for the card that is captured once and then launched with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from workers.engine.continuous.forward_pass import ForwardPass
from workers.engine.continuous.pass_inputs import PassShape

Output = TypeVar("Output")


def capture_graph(run: Callable[[], Output], pool: Any) -> tuple[torch.cuda.CUDAGraph, Output]:
    """Return the graph of `run` and its output tensors, which each replay overwrites.

    Graphs may share the memory `pool` if they run one at a time.
    """
    # compiles kernels and initializes libraries outside the capture
    side = _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = run()
    return graph, output


@cache
def _side_stream() -> torch.cuda.Stream:
    """Return one stream for all captures: cuBLAS keeps a workspace per stream."""
    return torch.cuda.Stream()


#: the fewest rows of a graph with chunks, and how much larger than the last one each is at most
_LEAST_ROWS, _GROWTH = 64, 1.25

#: numbers of rows of which larger graphs are multiples
_ROW_STEP = 64


@dataclass(frozen=True, slots=True, eq=False)
class PassGraph:
    """A captured pass, with the tensors that it reads and writes: otherwise their memory is reused."""

    shape: PassShape
    #: the inputs, see `PassInputs`
    inputs: Tensor
    #: None without chunks
    features: Tensor | None
    #: (outputs, vocabulary)
    logits: Tensor
    #: (outputs), the greedy tokens
    tokens: Tensor
    graph: torch.cuda.CUDAGraph


class PassGraphs:
    """Forward passes of fixed shapes; those without chunks are steps. Belongs to the engine's thread."""

    def __init__(self, over: ForwardPass, slots: int, budget: int, feature_layers: int, pool: Any) -> None:
        """Capture passes of up to `slots` sequences and `budget` rows in the memory `pool`.

        Image features have `feature_layers` layers, the final one included.
        """
        self._over = over
        like = over.language.weights.embedding
        # shared by all graphs, of which one runs at a time
        self._logits = like.new_empty(slots, len(over.language.weights.head))
        self._features = like.new_zeros(feature_layers, max(mixed_sizes(budget)), like.shape[1])
        shapes = [PassShape(rows, rows, 0, rows) for rows in step_sizes(slots)]
        shapes += [mixed_shape(rows, slots) for rows in mixed_sizes(budget)]
        # the largest first: the others reuse its memory
        self.all = [self._capture(shape, pool) for shape in sorted(shapes, key=lambda shape: -shape.rows)]

    def find(self, shape: PassShape) -> PassGraph | None:
        """Return the smallest graph that has room for `shape`; None if there is none."""
        fitting = [graph for graph in self.all if _fits(shape, graph.shape)]
        return min(fitting, key=lambda graph: graph.shape.rows, default=None)

    def _capture(self, shape: PassShape, pool: Any) -> PassGraph:
        device = self._logits.device
        inputs = torch.zeros(sum(shape.sizes), dtype=torch.int32, device=device)
        logits = self._logits[: shape.outputs]
        features = self._features[:, : shape.rows] if shape.chunks else None
        run = partial(self._over.compute, inputs, shape, features, logits)
        graph, (tokens, _) = capture_graph(run, pool)
        return PassGraph(shape, inputs, features, logits, tokens, graph)


def _fits(shape: PassShape, graph: PassShape) -> bool:
    if not shape.chunks:
        return not graph.chunks and shape.rows <= graph.rows
    return shape.rows <= graph.rows and shape.chunks <= graph.chunks and shape.outputs <= graph.outputs


def step_sizes(slots: int) -> list[int]:
    """Return the numbers of rows of steps with a graph, up to `slots`: close together, to pad few rows."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, slots, 16)]
    return [size for size in sizes if size < slots] + [slots]


def mixed_shape(rows: int, slots: int) -> PassShape:
    """Return the shape of a pass with chunks that has room for any sequences with so many rows."""
    # no row is of two sequences
    sequences = min(slots, rows)
    return PassShape(rows, sequences, sequences, sequences)


def mixed_sizes(budget: int) -> list[int]:
    """Return the numbers of rows of passes with chunks that have a graph, up to `budget`."""
    return [*_growing(budget), budget]


def _growing(budget: int) -> Iterator[int]:
    rows = _LEAST_ROWS
    while rows < budget:
        yield rows
        rows = max(rows + _ROW_STEP, int(rows * _GROWTH) // _ROW_STEP * _ROW_STEP)
