"""The decode step: one token for each of several slots, on a card as one CUDA graph per batch size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workers.engine.continuous.cuda_graphs import capture_graph
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.sampler import Logits
from workers.engine.continuous.slot_table import SlotTable


@dataclass(frozen=True, slots=True, eq=False)
class DecodeGraph:
    """A captured step over a fixed number of rows, with the tensors that it reads and writes."""

    #: (rows)
    slots: Tensor
    #: (rows, vocabulary)
    logits: Tensor
    #: (rows), the greedy tokens
    tokens: Tensor
    graph: torch.cuda.CUDAGraph


class Decode:
    """Runs decode steps in the engine's thread."""

    def __init__(self, language: LanguageModel, slot_table: SlotTable, ops: Ops) -> None:
        self._language = language
        self._slot_table = slot_table
        self._ops = ops
        self._device = language.weights.embedding.device
        self._graphs: dict[int, DecodeGraph] = {}
        self._logits: Tensor | None = None

    def capture(self, slots: int, pool: Any) -> None:
        """Capture graphs for up to `slots` rows in `pool`, the largest first: the others reuse its memory."""
        # shared by all graphs, of which one runs at a time: a vocabulary is wide
        self._logits = self._language.weights.head.new_empty(slots, len(self._language.weights.head))
        for size in reversed(graph_sizes(slots)):
            self._graphs[size] = self._capture(size, pool)

    def step(self, slots: Tensor) -> Logits:
        """Compute the next token of each of `slots` (n) and advance the slot table by the greedy ones."""
        tokens, logits = self._replay(slots) if self._graphs else self._compute(slots)
        return Logits(slots, logits, tokens)

    def _replay(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        count = len(slots)
        graph = self._graphs[min(size for size in self._graphs if size >= count)]
        graph.slots.fill_(self._slot_table.padding_slot)
        graph.slots[:count] = slots
        graph.graph.replay()
        # cloned: the next replay overwrites the tokens
        return graph.tokens[:count].clone(), graph.logits[:count]

    def _compute(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        table, cache = self._slot_table, self._language.cache
        length, block_tables = table.length[slots], table.block_tables[slots]
        block = block_tables.gather(1, (length // cache.block_size)[:, None])[:, 0].long()
        slot_mapping = block * cache.block_size + length % cache.block_size
        until = (length + 1).int()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            out = torch.empty_like(q).flatten(1)
            self._ops.attend_paged(q, keys, values, block_tables, until, cache.block_size, out)
            return out

        x = self._language.embed(table.token[slots])
        cos_sin = self._language.cos_sin(length + table.mrope_delta[slots])
        out = self._logits[: len(slots)] if self._logits is not None else None
        logits = self._language.logits(self._language.forward(x, cos_sin, slot_mapping, attend), out)
        tokens = logits.argmax(-1)
        table.advance(slots, tokens)
        return tokens, logits

    def _capture(self, size: int, pool: Any) -> DecodeGraph:
        slots = torch.full((size,), self._slot_table.padding_slot, dtype=torch.int64, device=self._device)
        graph, (tokens, logits) = capture_graph(partial(self._compute, slots), pool)
        return DecodeGraph(slots, logits, tokens, graph)


def graph_sizes(slots: int) -> list[int]:
    """Return the numbers of rows for which graphs are captured, up to `slots`: close together, to pad few rows."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, slots, 16)]
    return [size for size in sizes if size < slots] + [slots]
