"""Computes pieces of prompts: images seen, keys and values into the cache, and the first token of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from workers.engine.continuous.cuda_graphs import RecordedPrefill
from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.model.image_features import Features
from workers.engine.continuous.model.language import Attend, Deep, LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.requests import Request, Sight
from workers.engine.continuous.transfer import numbers, spans_of, upload


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Tokens `start` up to `stop` of a prompt that has a slot."""

    request: Request
    slot: int
    pages: tuple[int, ...]
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether the prompt is all in the cache then."""
        return self.stop == self.request.count

    @property
    def sights(self) -> list[Sight]:
        """The images that have tokens in this piece."""
        return [sight for sight in self.request.sights if sight.start < self.stop and sight.stop > self.start]


class Prefill:
    """Runs pieces of several prompts as one flat batch."""

    def __init__(self, language: LanguageModel, features: Features, ops: Ops, deep_layers: int) -> None:
        """`deep_layers` get features of images."""
        self._language = language
        self._features = features
        self._deep_layers = deep_layers
        self._ops = ops
        self._lengths = Lengths()
        self._device = language.weights.embedding.device
        self._recorded: RecordedPrefill | None = None

    def capture(self, pool: Any) -> None:
        """Record small prefills as graphs, in `pool`."""
        # flash attention, which a graph can hold, computes in nothing wider
        if self._language.weights.embedding.dtype != torch.float32:
            self._recorded = RecordedPrefill(self._language, self._ops, self._deep_layers, pool)

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """The logits (n, vocabulary) after the last token of each prompt that is all in the cache now."""
        x, deep = self._embed(pieces)
        positions = torch.cat([piece.request.positions[piece.start : piece.stop] for piece in pieces])
        turns = self._language.turns(upload(positions, self._device))
        places = upload(torch.cat([self._places(piece, piece.start) for piece in pieces]), self._device)
        lengths = [piece.stop - piece.start for piece in pieces]
        ends = [end - 1 for end, piece in zip(accumulate(lengths), pieces, strict=True) if piece.is_last]
        # a kernel over no rows does not start
        wanted = numbers(ends or [0], self._device)
        if any(piece.start for piece in pieces):
            h = self._language.forward(x, turns, places, self._over_cache(pieces, lengths), deep, wanted)
        elif self._recorded is not None and self._recorded.holds(lengths):
            h = self._recorded.run(x, turns, places, lengths, deep)[wanted]
        else:
            h = self._language.forward(x, turns, places, self._over_itself(lengths), deep, wanted)
        return self._language.logits(h[: len(ends)])

    def _over_itself(self, lengths: Sequence[int]) -> Attend:
        spans = spans_of(lengths, self._device, self._lengths)
        return lambda layer, q, k, v: self._ops.attend(q, k, v, spans, spans, causal=True)

    def _over_cache(self, pieces: Sequence[Piece], lengths: Sequence[int]) -> Attend:
        """What earlier pieces left is read from the cache, too."""
        queries, keys = spans_of(lengths, self._device), spans_of([piece.stop for piece in pieces], self._device)
        everything = upload(torch.cat([self._places(piece, 0) for piece in pieces]), self._device)
        cache = self._language.cache

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k, v = cache.keys[layer][everything], cache.values[layer][everything]
            return self._ops.attend(q, k, v, queries, keys, causal=True)

        return attend

    def _embed(self, pieces: Sequence[Piece]) -> tuple[Tensor, Deep | None]:
        tokens = torch.cat([piece.request.tokens[piece.start : piece.stop] for piece in pieces])
        x = self._language.embed(upload(tokens, self._device))
        sights = [sight for piece in pieces for sight in piece.sights]
        if not sights:
            return x, None
        cut = {sight.digest for piece in pieces for sight in piece.sights if sight.stop > piece.stop}
        seen = self._features.of(sights, needed_later=cut)
        rows: list[Tensor] = []
        parts: list[Tensor] = []
        first = 0
        for piece in pieces:
            for sight in piece.sights:
                begin, end = max(piece.start, sight.start), min(piece.stop, sight.stop)
                rows.append(torch.arange(begin, end) - piece.start + first)
                parts.append(seen[sight.digest][:, begin - sight.start : end - sight.start])
            first += piece.stop - piece.start
        at, features = upload(torch.cat(rows), self._device), torch.cat(parts, dim=1)
        x[at] = features[0]
        return x, Deep(at, features[1:].unbind())

    def _places(self, piece: Piece, start: int) -> Tensor:
        """Where in the cache tokens `start` up to the piece's end are."""
        size = self._language.cache.page_tokens
        at = torch.arange(start, piece.stop)
        return torch.tensor(piece.pages)[at // size] * size + at % size
