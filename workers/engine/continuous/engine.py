"""The continuous engine: Qwen3-VL, dense and mixture of experts, on cards and CPUs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import NotReady
from workers.engine.continuous.build import BLOCK_SIZE, Built, build
from workers.engine.continuous.encode import RequestEncoder, check_image_processor, require_alike
from workers.engine.continuous.requests import Intake, Request
from workers.engine.model.generation_config import greedy_rules
from workers.engine.model.image_sizes import read_fit
from workers.engine.model.loading import eos_ids, load
from workers.engine.model.video_processor import video_fit
from workers.engine.model_engine import Loaded, ModelEngine, warm_up
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending
from workers.engine.settings import EngineSettings
from workers.engine.stats import Stats
from workers.engine.text.encoder_pool import THREADS, EncoderPool
from workers.engine.text.grammar import Guides


class ContinuousEngine(ModelEngine):
    """Continuous batching over the model and processor of one loaded pipeline."""

    def __init__(
        self,
        settings: EngineSettings,
        slots: int,
        load: Callable[[EngineSettings], ImageTextToTextPipeline] = load,
    ) -> None:
        """Call `load` in the engine's thread, which then owns the pipeline; it may raise NotReady."""
        super().__init__(settings, threads=1)
        self._load = load
        self._slots = slots
        self._intake = Intake()
        self._built: Built | None = None

    @property
    def built(self) -> Built:
        """The engine's parts; only once started."""
        assert self._built is not None
        return self._built

    def stats(self) -> Stats:
        blocks = self.built.block_manager
        used = blocks.num_blocks - blocks.num_free
        return replace(self.built.loop.counter.stats, blocks=blocks.num_blocks, blocks_used=used)

    def forget_longest_pass(self) -> None:
        """See `StatsCounter`."""
        self.built.loop.counter.forget_longest_pass()

    def open(self) -> Loaded:
        pipe: Any = self._load(self.settings)
        check_image_processor(pipe.processor.image_processor, pipe.model.config.vision_config)
        self.fit = read_fit(pipe.processor.image_processor)
        require_alike(pipe.processor)
        self.video_fit = video_fit(pipe.processor)
        self._built = self._build(pipe)
        self.repetition_penalty = greedy_rules(pipe.model.generation_config.to_dict()).repetition_penalty
        warm_up(pipe, partial(self._answer, pipe), self.fit.size(64, 64))
        return Loaded(pipe, partial(self._built.loop.serve, self._intake))

    def make_encoder_pool(self, pipe: Any) -> EncoderPool[Request]:
        guides = Guides(pipe.tokenizer, eos_ids(pipe), self.settings.max_reasoning_tokens)
        encoders = [self._encoder(pipe, guides) for _ in range(THREADS)]
        return EncoderPool(encoders, expect=lambda: None, deliver=self._deliver)

    def close(self) -> None:
        self._intake.close()

    def _build(self, pipe: Any) -> Built:
        try:
            return build(pipe, self.settings, self._slots)
        except torch.OutOfMemoryError:
            raise NotReady(
                f"{self.model} (VQA_MODEL) fits the card and leaves no room to compute: compute less at once "
                f"(VQA_PREFILL_TOKENS={self.settings.prefill_tokens}), or take a smaller model"
            ) from None
        except NotReady:
            raise
        except Exception as error:
            # raised by Triton, which compiles small C modules, by CUDA or by torch
            needs_compiler = "C compiler" in str(error) or "Python.h" in str(error)
            reason = (
                "its kernels need a C compiler and Python's headers (apt-get install gcc python3-dev)"
                if needs_compiler
                else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            raise NotReady(f"the continuous engine cannot start: {reason}; try VQA_ENGINE=pipeline") from error

    def _encoder(self, pipe: Any, guides: Guides | None = None) -> RequestEncoder:
        settings, block_size = self.settings, BLOCK_SIZE[pipe.model.device.type] if self.settings.prefix_cache else None
        model = f"{settings.model} {settings.revision}"
        return RequestEncoder(copy.deepcopy(pipe.processor), settings.slot_tokens, guides, block_size, model)

    def _deliver(self, pending: Pending, request: Request | None) -> None:
        if request is not None:
            self._intake.put(pending, request)

    def _answer(self, pipe: Any, pending: Pending) -> None:
        """Answer one prompt in this thread."""
        intake = Intake()
        intake.put(pending, self._encoder(pipe).encode(pending.prompt))
        pending.future.add_done_callback(lambda _: intake.close())
        self.built.loop.serve(intake, Heartbeat(self.settings.hang_s))
