"""The pipeline engine: any model that `transformers.pipeline("image-text-to-text")` loads, in microbatches.

Static batching: a microbatch is decoded until its last prompt ends, but each answer is returned when it ends. Replicas,
each with its own model, tokenizer and thread, take microbatches from one batcher.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from workers.engine.model.image_sizes import fit_of
from workers.engine.model.loading import eos_ids, load
from workers.engine.model.video_processor import video_fit
from workers.engine.model_engine import Loaded, ModelEngine
from workers.engine.pipeline.batcher import Batcher, Encoded
from workers.engine.pipeline.encoding import Encoder, ModelInputs
from workers.engine.pipeline.replica import Replica
from workers.engine.runtime.pending import Pending
from workers.engine.settings import EngineSettings
from workers.engine.text.encoder_pool import THREADS, EncoderPool
from workers.engine.text.grammar import Guides

#: seconds that a microbatch waits for more prompts if it is not full
MICROBATCH_WAIT_S = 0.005


class PipelineEngine(ModelEngine):
    """Answers prompts with `settings.replicas` loaded pipelines."""

    def __init__(
        self,
        settings: EngineSettings,
        slots: int,
        load: Callable[[EngineSettings], ImageTextToTextPipeline] = load,
        wait_s: float = MICROBATCH_WAIT_S,
    ) -> None:
        """`load` is called in each replica's own thread; it may raise NotReady."""
        super().__init__(settings, threads=settings.replicas)
        self._load = load
        # replicas share the card's slots
        self._microbatch = max(1, min(settings.microbatch_of(slots), slots // settings.replicas))
        self._batcher = Batcher(wait_s)

    def open(self) -> Loaded:
        replica = Replica(self.settings, self._microbatch, self._load)
        replica.warm_up()
        self.fit = fit_of(replica.pipe.processor.image_processor)
        self.video_fit = video_fit(replica.pipe.processor)
        return Loaded(replica.pipe, partial(replica.serve, self._batcher))

    def make_encoder_pool(self, pipe: Any) -> EncoderPool[ModelInputs]:
        guides = Guides(pipe.tokenizer, eos_ids(pipe), self.settings.max_reasoning_tokens)
        return EncoderPool([self._encoder(pipe, guides) for _ in range(THREADS)], self._batcher.expect, self._deliver)

    def close(self) -> None:
        self._batcher.close()

    def _encoder(self, pipe: Any, guides: Guides) -> Encoder:
        own = copy.copy(pipe)
        own.processor = copy.deepcopy(pipe.processor)
        own.tokenizer = own.processor.tokenizer
        return Encoder(own, self.settings.slot_tokens, guides)

    def _deliver(self, pending: Pending, inputs: ModelInputs | None) -> None:
        self._batcher.add(Encoded(pending, inputs) if inputs is not None else None)
