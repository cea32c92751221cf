"""Makes the engine of a `BrokenWorker`: it breaks in `generate`, and in passes of the continuous engine."""

import os
import signal
import threading
from typing import Any

import torch
from transformers.generation.utils import GenerationMixin

from tests.broken_worker import LONG
from workers.engine import factory
from workers.engine.base import Engine
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.settings import EngineSettings


def make_engine(settings: EngineSettings, slots: int) -> Engine:
    if os.environ.get("BREAKS") == "load":
        os.kill(os.getpid(), signal.SIGKILL)
    original, forward = GenerationMixin.generate, ModelRunner.forward

    def generate(model: Any, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > LONG:
            _break()
        return original(model, **inputs)

    def breaking_forward(runner: ModelRunner, batch: Any) -> Any:
        if any(chunk.request.num_tokens > LONG for chunk in batch.chunks):
            _break()
        return forward(runner, batch)

    GenerationMixin.generate = generate
    ModelRunner.forward = breaking_forward
    return factory.make_engine(settings, slots)


def _break() -> None:
    match os.environ.get("BREAKS"):
        case "hang":
            threading.Event().wait()
        case "assert":
            # reported by the next call that waits for the card, as a model's failures are
            torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]
        case "exit":
            os._exit(5)
