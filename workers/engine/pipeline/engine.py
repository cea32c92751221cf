"""The pipeline engine: any model that `transformers.pipeline("image-text-to-text")` loads, in microbatches.

Static batching: a microbatch is decoded until its last row has ended, though each row's answer is given at its own
end. Replicas (each with its own model, tokenizer and thread) take microbatches from one queue.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from workers.engine.model.loading import end_ids, load
from workers.engine.model_engine import Loaded, ModelEngine
from workers.engine.pipeline.batcher import Ready, Waiting
from workers.engine.pipeline.encoding import Encoded, Encoder
from workers.engine.pipeline.replica import Replica
from workers.engine.runtime.pending import Held
from workers.engine.settings import EngineSettings
from workers.engine.text.encoder_pool import THREADS, Preparation
from workers.engine.text.grammar import Guides

#: seconds that a microbatch with free places waits for another prompt
MICROBATCH_WAIT_S = 0.005


class PipelineEngine(ModelEngine):
    """The engine protocol over `settings.replicas` loaded pipelines."""

    def __init__(
        self,
        settings: EngineSettings,
        slots: int,
        load: Callable[[EngineSettings], ImageTextToTextPipeline] = load,
        wait_s: float = MICROBATCH_WAIT_S,
    ) -> None:
        """`load` is called once a replica, from the thread that is to own what it returns; it may raise NotReady."""
        super().__init__(settings, threads=settings.replicas)
        self._load = load
        # replicas share the card's slots
        self._microbatch = max(1, min(settings.microbatch_of(slots), slots // settings.replicas))
        self._waiting = Waiting(wait_s)

    def open(self) -> Loaded:
        """See `ModelEngine`."""
        replica = Replica(self.settings, self._microbatch, self._load)
        replica.warm_up()
        return Loaded(replica.pipe, partial(replica.serve, self._waiting))

    def prepare(self, pipe: Any) -> Preparation[Encoded]:
        """See `ModelEngine`."""
        guides = Guides(pipe.tokenizer, end_ids(pipe))
        return Preparation([self._encoder(pipe, guides) for _ in range(THREADS)], self._waiting.expect, self._deliver)

    def close(self) -> None:
        """See `ModelEngine`."""
        self._waiting.close()

    def _encoder(self, pipe: Any, guides: Guides) -> Encoder:
        own = copy.copy(pipe)
        own.processor = copy.deepcopy(pipe.processor)
        own.tokenizer = own.processor.tokenizer
        return Encoder(own, self.settings.slot_tokens, guides)

    def _deliver(self, held: Held, encoded: Encoded | None) -> None:
        self._waiting.arrived(Ready(held, encoded) if encoded is not None else None)
