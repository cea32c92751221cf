"""CUDA graphs: work for the card that is captured once and then launched with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from workers.engine.continuous.model.language import DeepStack, LanguageModel
from workers.engine.continuous.ops.base import Ops, Spans
from workers.engine.continuous.transfer import upload

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


#: numbers of tokens with a graph; above them the card takes longer than the host's launches
_SIZES = (64, 128, 256, 512, 832, 1024, 1664, 2048)

#: of one prefill
_MAX_SEQUENCES = 8


@dataclass(frozen=True, slots=True, eq=False)
class PrefillGraph:
    """A captured forward pass over a fixed number of tokens, with the tensors that it reads and writes.

    A tensor that the graph reads must be referenced here: otherwise its memory is reused.
    """

    x: Tensor
    cos_sin: Tensor
    slot_mapping: Tensor
    #: (sequences + 2) see `Spans`; the last sequence is the padding
    cu_seqlens: Tensor
    #: features for every row, zeros where there is no image
    deepstack: DeepStack
    out: Tensor
    graph: torch.cuda.CUDAGraph


class PrefillGraphs:
    """Runs forward passes over whole prompts in the engine's thread."""

    def __init__(self, language: LanguageModel, ops: Ops, deepstack_layers: int, pool: Any) -> None:
        """Add image features to the first `deepstack_layers` layers; capture in the memory `pool`."""
        self._language = language
        self._ops = ops
        self._deepstack_layers = deepstack_layers
        self._graphs = {size: self._capture(size, pool) for size in reversed(_SIZES)}

    def fit(self, lengths: Sequence[int]) -> bool:
        """Whether there is a graph for sequences of these lengths."""
        return sum(lengths) <= _SIZES[-1] and len(lengths) <= _MAX_SEQUENCES

    def run(
        self, x: Tensor, cos_sin: Tensor, slot_mapping: Tensor, lengths: Sequence[int], deepstack: DeepStack | None
    ) -> Tensor:
        """Run `LanguageModel.forward` over whole sequences of these lengths; (T, H), overwritten by the next run."""
        count = len(x)
        graph = self._graphs[min(size for size in _SIZES if size >= count)]
        graph.x[:count], graph.x[count:] = x, 0
        graph.cos_sin[:count] = cos_sin
        graph.slot_mapping[:count], graph.slot_mapping[count:] = slot_mapping, self._padding_position
        ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        cu_seqlens = torch.full((len(graph.cu_seqlens),), count, dtype=torch.int32)
        cu_seqlens[: len(ends)], cu_seqlens[-1] = ends, len(graph.x)
        graph.cu_seqlens.copy_(upload(cu_seqlens, x.device), non_blocking=True)
        for layer, features in enumerate(graph.deepstack.features):
            features.zero_()
            if deepstack is not None:
                features[deepstack.rows] = deepstack.features[layer]
        graph.graph.replay()
        return graph.out[:count]

    @property
    def _padding_position(self) -> int:
        """The cache position that padding rows are written to."""
        return self._language.cache.null_block * self._language.cache.block_size

    def _capture(self, size: int, pool: Any) -> PrefillGraph:
        weights = self._language.weights
        like, half = weights.embedding, len(weights.frequencies)
        x = like.new_zeros(size, like.shape[1])
        cos_sin = weights.frequencies.new_zeros(size, 2, half)
        slot_mapping = torch.full((size,), self._padding_position, dtype=torch.int64, device=like.device)
        cu_seqlens = torch.zeros(_MAX_SEQUENCES + 2, dtype=torch.int32, device=like.device)
        cu_seqlens[-1] = size
        features = [like.new_zeros(size, like.shape[1]) for _ in range(self._deepstack_layers)]
        deepstack = DeepStack(torch.arange(size, device=like.device), features)
        spans = Spans(cu_seqlens, size, ())

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._ops.attend(q, k, v, spans, spans, causal=True)

        graph, out = capture_graph(partial(self._language.forward, x, cos_sin, slot_mapping, attend, deepstack), pool)
        return PrefillGraph(x, cos_sin, slot_mapping, cu_seqlens, deepstack, out, graph)
