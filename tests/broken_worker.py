"""A worker whose model breaks on long prompts: the real one, but for `generate` and the continuous engine's prefill.

`python -m tests.broken_worker` stands for `python -m celery`; how it breaks is in the variable BREAKS: `hang` stops the
thread that computes, `assert` fails on the card and takes its CUDA context along, nothing leaves it whole.
"""

import os
import sys
import threading
from typing import Any

from tests.worker_process import WorkerProcess

#: tokens of a prompt on which it breaks; warming up takes fewer
LONG = 200


class BrokenWorker(WorkerProcess):
    """Breaks as the variable BREAKS says. Warnings are no errors here: on a card there are some of its libraries'."""

    program = ("-m", "tests.broken_worker")


def _break(how: str) -> None:
    import torch

    if how == "hang":
        threading.Event().wait()
    if how == "assert":
        # told by the next call that waits for the card, as those of a model are
        torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")]


def _main() -> None:
    from celery.__main__ import main
    from transformers.generation.utils import GenerationMixin

    from workers.engine.continuous.model_runner import Runner

    whole, prefill = GenerationMixin.generate, Runner.prefill

    def generate(model: Any, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > LONG:
            _break(os.environ.get("BREAKS", ""))
        return whole(model, **inputs)

    def breaking_prefill(runner: Runner, pieces: Any) -> Any:
        if any(piece.request.count > LONG for piece in pieces):
            _break(os.environ.get("BREAKS", ""))
        return prefill(runner, pieces)

    GenerationMixin.generate = generate
    Runner.prefill = breaking_prefill
    main()


if __name__ == "__main__":
    sys.exit(_main())
