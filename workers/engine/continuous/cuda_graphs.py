"""Work for the card, recorded once and launched again with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from workers.engine.continuous.model.language import Deep, LanguageModel
from workers.engine.continuous.ops.base import Ops, Spans
from workers.engine.continuous.transfer import upload

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


#: tokens for which a graph is kept. Above them the card takes longer than the host
_SIZES = (64, 128, 256, 512, 832, 1024, 1664, 2048)

#: sequences of one prefill
_MOST_SEQUENCES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """A forward pass over a fixed number of tokens: where its input is read and its output written.

    Whatever the graph reads has to be held here: its memory is given to others otherwise.
    """

    x: Tensor
    turns: Tensor
    places: Tensor
    #: (sequences + 2): the last sequence is nobody's and fills the bucket up
    starts: Tensor
    #: every row has features, of zeros where there is no image
    deep: Deep
    out: Tensor
    graph: torch.cuda.CUDAGraph


class RecordedPrefill:
    """Forward passes over whole prompts. Belongs to the engine's thread."""

    def __init__(self, language: LanguageModel, ops: Ops, deep_layers: int, pool: Any) -> None:
        """`deep_layers` get features of images; `pool` is the graphs' memory."""
        self._language = language
        self._ops = ops
        self._deep_layers = deep_layers
        self._buckets = {size: self._record(size, pool) for size in reversed(_SIZES)}

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths fit a graph."""
        return sum(lengths) <= _SIZES[-1] and len(lengths) <= _MOST_SEQUENCES

    def run(self, x: Tensor, turns: Tensor, places: Tensor, lengths: Sequence[int], deep: Deep | None) -> Tensor:
        """As `LanguageModel.forward` over whole sequences of these lengths. (T, H), there until the next run."""
        count = len(x)
        bucket = self._buckets[min(size for size in _SIZES if size >= count)]
        bucket.x[:count], bucket.x[count:] = x, 0
        bucket.turns[:count] = turns
        bucket.places[:count], bucket.places[count:] = places, self._nobodys_place
        ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        starts = torch.full((len(bucket.starts),), count, dtype=torch.int32)
        starts[: len(ends)], starts[-1] = ends, len(bucket.x)
        bucket.starts.copy_(upload(starts, x.device), non_blocking=True)
        for layer, into in enumerate(bucket.deep.features):
            into.zero_()
            if deep is not None:
                into[deep.rows] = deep.features[layer]
        bucket.graph.replay()
        return bucket.out[:count]

    @property
    def _nobodys_place(self) -> int:
        return self._language.cache.nobodys * self._language.cache.page_tokens

    def _record(self, size: int, pool: Any) -> Bucket:
        weights = self._language.weights
        like, half = weights.embedding, len(weights.frequencies)
        x = like.new_zeros(size, like.shape[1])
        turns = weights.frequencies.new_zeros(size, 2, half)
        places = torch.full((size,), self._nobodys_place, dtype=torch.int64, device=like.device)
        starts = torch.zeros(_MOST_SEQUENCES + 2, dtype=torch.int32, device=like.device)
        starts[-1] = size
        features = [like.new_zeros(size, like.shape[1]) for _ in range(self._deep_layers)]
        deep = Deep(torch.arange(size, device=like.device), features)
        spans = Spans(starts, size, ())

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._ops.attend(q, k, v, spans, spans, causal=True)

        graph, out = record(partial(self._language.forward, x, turns, places, attend, deep), pool)
        return Bucket(x, turns, places, starts, deep, out, graph)
