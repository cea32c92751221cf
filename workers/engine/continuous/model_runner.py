"""Runs the batches that the scheduler forms: forward pass and sampling, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.continuous.cuda_graphs import PassGraph, PassGraphs
from workers.engine.continuous.forward_pass import ForwardPass, chunk_features
from workers.engine.continuous.kv_cache import KVCache
from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.pass_inputs import PassInputs, PassShape, PassWriter
from workers.engine.continuous.sampler import Logits, Sampler
from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.slot_table import SlotTable
from workers.engine.continuous.transfer import AsyncTokens, upload
from workers.engine.model.generation_config import NOTHING_SUPPRESSED, Suppressed


class ModelRunner:
    """Forward passes of one model over one KV cache. Belongs to the engine's thread."""

    def __init__(
        self,
        language: LanguageModel,
        features: ImageFeatures,
        ops: Ops,
        slots: int,
        slot_blocks: int,
        suppressed: Suppressed = NOTHING_SUPPRESSED,
    ) -> None:
        """Let each of `slots` have up to `slot_blocks` blocks; never choose the tokens in `suppressed`."""
        self._device = language.weights.embedding.device
        sizes = (slots, slot_blocks, language.cache.null_block)
        self._slot_table = SlotTable(*sizes, self._device, len(language.weights.head), suppressed)
        self._writer = PassWriter(self._slot_table, language.cache.block_size, language.cache.null_block)
        self._features = features
        self._pass = ForwardPass(language, self._slot_table, ops)
        self._slots = slots
        self._graphs: PassGraphs | None = None

    @property
    def cache(self) -> KVCache:
        return self._pass.language.cache

    @torch.inference_mode()
    def capture(self, budget: int, feature_layers: int) -> None:
        """Capture CUDA graphs of passes of up to `budget` rows; larger ones run without."""
        pool = torch.cuda.graph_pool_handle()
        self._graphs = PassGraphs(self._pass, self._slots, budget, feature_layers, pool)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Logits:
        """Compute the batch; return logits for the next token of each of its sequences, in order."""
        if first := [chunk for chunk in batch.chunks if chunk.is_first]:
            self._slot_table.init(first)
        made = chunk_features(batch.chunks, self._features)
        features = torch.cat(made, dim=1) if made else None
        shape = PassShape.of(batch)
        graph = self._graphs.find(shape) if self._graphs is not None else None
        if graph is not None:
            return self._replay(graph, batch, features)
        inputs = upload(self._writer.write(batch, shape), self._device)
        tokens, logits = self._pass.compute(inputs, shape, features)
        return _logits(PassInputs.of(inputs, shape), tokens, logits, len(batch.sequences))

    @torch.inference_mode()
    def sample(self, logits: Logits, sampler: Sampler) -> AsyncTokens:
        """Choose the next token of each row and write it to the slot table; `logits` must be the latest computed."""
        sampled = sampler.sample(logits, self._slot_table)
        if sampled.tokens is not logits.greedy:
            self._slot_table.token[logits.slots] = sampled.tokens
        return AsyncTokens(sampled.tokens, sampled.logprobs)

    def _replay(self, graph: PassGraph, batch: Batch, features: Tensor | None) -> Logits:
        graph.inputs.copy_(upload(self._writer.write(batch, graph.shape), self._device))
        if features is not None:
            assert graph.features is not None
            graph.features[:, : features.shape[1]] = features
        graph.graph.replay()
        # cloned: the next replay overwrites the tokens
        return _logits(
            PassInputs.of(graph.inputs, graph.shape), graph.tokens.clone(), graph.logits, len(batch.sequences)
        )


def _logits(inputs: PassInputs, tokens: Tensor, logits: Tensor, count: int) -> Logits:
    return Logits(inputs.output_slots[:count].long(), logits[:count], tokens[:count])
