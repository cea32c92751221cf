"""Prefill: encodes images, writes prompt chunks to the KV cache and computes the logits of first answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from workers.engine.continuous.cuda_graphs import PrefillGraphs
from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.model.language import Attend, DeepStack, LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.transfer import numbers, spans_of, upload


class Prefill:
    """Computes chunks of several prompts as one flat batch."""

    def __init__(self, language: LanguageModel, features: ImageFeatures, ops: Ops, deepstack_layers: int) -> None:
        """Add image features to the outputs of the first `deepstack_layers` layers."""
        self._language = language
        self._features = features
        self._deepstack_layers = deepstack_layers
        self._ops = ops
        self._lengths = Lengths()
        self._device = language.weights.embedding.device
        self._graphs: PrefillGraphs | None = None

    def capture(self, pool: Any) -> None:
        """Capture CUDA graphs of small prefills in the memory `pool`."""
        # graphs need flash attention, which has no float32 kernel
        if self._language.weights.embedding.dtype != torch.float32:
            self._graphs = PrefillGraphs(self._language, self._ops, self._deepstack_layers, pool)

    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return (n, vocabulary) logits after the last token of each of the n prompts that are complete now."""
        x, deepstack = self._embed(chunks)
        positions = torch.cat([chunk.request.positions[chunk.start : chunk.stop] for chunk in chunks])
        cos_sin = self._language.cos_sin(upload(positions, self._device))
        slot_mapping = upload(torch.cat([self._slot_mapping(chunk, chunk.start) for chunk in chunks]), self._device)
        lengths = [chunk.num_tokens for chunk in chunks]
        ends = [end - 1 for end, chunk in zip(accumulate(lengths), chunks, strict=True) if chunk.is_last]
        # a kernel cannot be launched on no rows
        output_rows = numbers(ends or [0], self._device)
        if any(chunk.start for chunk in chunks):
            attend = self._attend_to_cache(chunks, lengths)
            h = self._language.forward(x, cos_sin, slot_mapping, attend, deepstack, output_rows)
        elif self._graphs is not None and self._graphs.fit(lengths):
            h = self._graphs.run(x, cos_sin, slot_mapping, lengths, deepstack)[output_rows]
        else:
            h = self._language.forward(x, cos_sin, slot_mapping, self._attend_to_batch(lengths), deepstack, output_rows)
        return self._language.logits(h[: len(ends)])

    def _attend_to_batch(self, lengths: Sequence[int]) -> Attend:
        """Attention of whole prompts: all keys and values are in the batch."""
        spans = spans_of(lengths, self._device, self._lengths)
        return lambda layer, q, k, v: self._ops.attend(q, k, v, spans, spans, causal=True)

    def _attend_to_cache(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Attend:
        """Attention of chunks, which read the keys and values of earlier chunks from the cache."""
        queries, keys = spans_of(lengths, self._device), spans_of([chunk.stop for chunk in chunks], self._device)
        whole = upload(torch.cat([self._slot_mapping(chunk, 0) for chunk in chunks]), self._device)
        cache = self._language.cache

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k, v = cache.keys[layer][whole], cache.values[layer][whole]
            return self._ops.attend(q, k, v, queries, keys, causal=True)

        return attend

    def _embed(self, chunks: Sequence[Chunk]) -> tuple[Tensor, DeepStack | None]:
        """Embed the tokens (T) as (T, H), with image features at image tokens."""
        tokens = torch.cat([chunk.request.tokens[chunk.start : chunk.stop] for chunk in chunks])
        x = self._language.embed(upload(tokens, self._device))
        images = [image for chunk in chunks for image in chunk.images]
        if not images:
            return x, None
        continued = {image.digest for chunk in chunks for image in chunk.images if image.stop > chunk.stop}
        features = self._features.get(images, needed_later=continued)
        rows: list[Tensor] = []
        parts: list[Tensor] = []
        first = 0
        for chunk in chunks:
            for image in chunk.images:
                begin, end = max(chunk.start, image.start), min(chunk.stop, image.stop)
                rows.append(torch.arange(begin, end) - chunk.start + first)
                parts.append(features[image.digest][:, begin - image.start : end - image.start])
            first += chunk.num_tokens
        at, joined = upload(torch.cat(rows), self._device), torch.cat(parts, dim=1)
        x[at] = joined[0]
        return x, DeepStack(at, joined[1:].unbind())

    def _slot_mapping(self, chunk: Chunk, start: int) -> Tensor:
        """Return where the cache holds the tokens from `start` to the chunk's end."""
        size = self._language.cache.block_size
        at = torch.arange(start, chunk.stop)
        return torch.tensor(chunk.sequence.blocks)[at // size] * size + at % size
