"""The engines as the benchmark makes them: over a model that is drawn at random, once a process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, Protocol, runtime_checkable

import torch
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from bench.routing import Routing, spread_modules, spreading
from workers.engine.base import Engine
from workers.engine.continuous.stats import Figures
from workers.engine.settings import EngineSettings

EngineName = Literal["continuous", "pipeline"]
Load = Callable[[EngineSettings], ImageTextToTextPipeline]


@runtime_checkable
class Counting(Protocol):
    """An engine that counts."""

    def figures(self) -> Figures:
        """What it has computed since it was started."""


class Once:
    """Loads the first time, and hands out the same then: one engine after another may use it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loaded: ImageTextToTextPipeline | None = None

    def __call__(self, settings: EngineSettings) -> ImageTextToTextPipeline:
        """The one pipeline."""
        if self._loaded is None:
            self._loaded = self._load(settings)
        return self._loaded

    def forget(self) -> None:
        """Give its memory back, once no engine has it any more."""
        self._loaded = None
        release()


def release() -> None:
    """Give back what engines that are gone have held: the next one plans with what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def opened(
    name: EngineName, settings: EngineSettings, slots: int, routing: Routing, load: Load, wait_s: float | None = None
) -> Iterator[Engine]:
    """The engine, not started; it is to be started and used inside."""
    if name == "pipeline":
        from workers.engine.pipeline.engine import MICROBATCH_WAIT_S, PipelineEngine

        wait_s = MICROBATCH_WAIT_S if wait_s is None else wait_s
        with spread_modules(load(settings).model) if routing == "spread" else nullcontext():
            yield PipelineEngine(settings, slots, load=load, wait_s=wait_s)
    else:
        from workers.engine.continuous.engine import ContinuousEngine

        with spreading() if routing == "spread" else nullcontext():
            yield ContinuousEngine(settings, slots, load=load)
