"""The decode step: one token for each of some slots, on a card as one CUDA graph a bucket of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workers.engine.continuous.cuda_graphs import record
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.sampler import Logits
from workers.engine.continuous.slot_table import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """A step over a fixed number of rows: where its input is read and its output written."""

    #: (rows) slots
    slots: Tensor
    #: (rows, vocabulary), and the likeliest token of each row
    logits: Tensor
    tokens: Tensor
    graph: torch.cuda.CUDAGraph


class Decode:
    """Steps over the slots. Belongs to the engine's thread."""

    def __init__(self, language: LanguageModel, rows: Rows, ops: Ops) -> None:
        self._language = language
        self._rows = rows
        self._ops = ops
        self._device = language.weights.embedding.device
        self._buckets: dict[int, Bucket] = {}
        self._logits: Tensor | None = None

    def capture(self, slots: int, pool: Any) -> None:
        """Record the graphs for up to `slots` rows in `pool`; the largest first, whose memory the others share."""
        # one for all buckets, as they run one at a time: a vocabulary is wide
        self._logits = self._language.weights.head.new_empty(slots, len(self._language.weights.head))
        for size in reversed(bucket_sizes(slots)):
            self._buckets[size] = self._record(size, pool)

    def step(self, slots: Tensor) -> Logits:
        """What the next token of each of the slots (n) is chosen from; they advance by the likeliest."""
        tokens, logits = self._replay(slots) if self._buckets else self._compute(slots)
        return Logits(slots, logits, tokens)

    def _replay(self, at: Tensor) -> tuple[Tensor, Tensor]:
        bucket = self._buckets[min(size for size in self._buckets if size >= len(at))]
        bucket.slots.fill_(self._rows.nobody)
        bucket.slots[: len(at)] = at
        bucket.graph.replay()
        # the next replay writes where this one did
        return bucket.tokens[: len(at)].clone(), bucket.logits[: len(at)]

    def _compute(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        rows, cache = self._rows, self._language.cache
        length, tables = rows.length[slots], rows.tables[slots]
        page = tables.gather(1, (length // cache.page_tokens)[:, None])[:, 0].long()
        places = page * cache.page_tokens + length % cache.page_tokens
        until = (length + 1).int()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            return self._ops.attend_rows(q, keys, values, tables, until, cache.page_tokens)

        x = self._language.embed(rows.token[slots])
        turns = self._language.turns(length + rows.shift[slots])
        into = self._logits[: len(slots)] if self._logits is not None else None
        logits = self._language.logits(self._language.forward(x, turns, places, attend), into)
        tokens = logits.argmax(-1)
        rows.advance(slots, tokens)
        return tokens, logits

    def _record(self, size: int, pool: Any) -> Bucket:
        slots = torch.full((size,), self._rows.nobody, dtype=torch.int64, device=self._device)
        graph, (tokens, logits) = record(partial(self._compute, slots), pool)
        return Bucket(slots, logits, tokens, graph)


def bucket_sizes(slots: int) -> list[int]:
    """Numbers of rows for which a graph is kept, up to `slots`: close enough that little is computed for nobody."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, slots, 16)]
    return [size for size in sizes if size < slots] + [slots]
