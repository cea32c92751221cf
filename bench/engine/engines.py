"""Engines for the benchmarks, over a model with random weights that is made once per process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from bench.engine.routing import Routing, spread_modules, spreading
from workers.engine.base import Engine
from workers.engine.settings import EngineSettings

EngineName = Literal["continuous", "pipeline"]
Load = Callable[[EngineSettings], ImageTextToTextPipeline]


class Once:
    """Loads on the first call and returns the same pipeline afterwards, for one engine after another."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loaded: ImageTextToTextPipeline | None = None

    def __call__(self, settings: EngineSettings) -> ImageTextToTextPipeline:
        if self._loaded is None:
            self._loaded = self._load(settings)
        return self._loaded

    def forget(self) -> None:
        """Release the pipeline's memory; no engine may use it any more."""
        self._loaded = None
        release()


def release() -> None:
    """Release the memory of stopped engines: the next engine sizes its cache by the free memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def opened(
    name: EngineName, settings: EngineSettings, slots: int, routing: Routing, load: Load, wait_s: float | None = None
) -> Iterator[Engine]:
    """Yield the engine, not started; start and use it inside the context."""
    if name == "pipeline":
        from workers.engine.pipeline.engine import MICROBATCH_WAIT_S, PipelineEngine

        wait_s = MICROBATCH_WAIT_S if wait_s is None else wait_s
        with spread_modules(load(settings).model) if routing == "spread" else nullcontext():
            yield PipelineEngine(settings, slots, load=load, wait_s=wait_s)
    else:
        from workers.engine.continuous.engine import ContinuousEngine

        with spreading() if routing == "spread" else nullcontext():
            yield ContinuousEngine(settings, slots, load=load)
