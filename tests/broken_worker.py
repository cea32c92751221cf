"""A worker whose model breaks on long prompts, in `generate` and in the continuous engine's passes with chunks of them.

`python -m tests.broken_worker` replaces `python -m celery`. The variable BREAKS says how it breaks: `hang` stops the
computing thread, `assert` fails on the card and destroys its CUDA context, `stand` stops the thread that consumes
messages on its first message, and nothing breaks if it is not set.
"""

import os
import sys
import threading
from typing import Any

from tests.worker_process import WorkerProcess

#: it breaks on prompts with more tokens; warming up uses fewer
LONG = 200


class BrokenWorker(WorkerProcess):
    """Breaks as the variable BREAKS says. Warnings are not errors, as libraries emit some on a card."""

    program = ("-m", "tests.broken_worker")


def _break(how: str) -> None:
    import torch

    if how == "hang":
        threading.Event().wait()
    if how == "assert":
        # reported by the next call that waits for the card, as a model's failures are
        torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]


def _main() -> None:
    from celery.__main__ import main
    from transformers.generation.utils import GenerationMixin

    from workers.consumer.intake import Intake
    from workers.engine.continuous.model_runner import ModelRunner

    original, forward = GenerationMixin.generate, ModelRunner.forward

    def generate(model: Any, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > LONG:
            _break(os.environ.get("BREAKS", ""))
        return original(model, **inputs)

    def breaking_forward(runner: ModelRunner, batch: Any) -> Any:
        if any(chunk.request.num_tokens > LONG for chunk in batch.chunks):
            _break(os.environ.get("BREAKS", ""))
        return forward(runner, batch)

    if os.environ.get("BREAKS") == "stand":
        Intake.receive = lambda *_: threading.Event().wait()  # type: ignore[assignment, method-assign]
    GenerationMixin.generate = generate
    ModelRunner.forward = breaking_forward
    main()


if __name__ == "__main__":
    sys.exit(_main())
