"""A worker whose model breaks on long prompts.

The variable BREAKS says how: `hang` stops the computing thread, `assert` fails on the card and destroys its CUDA
context, `exit` ends the engine's process, `load` kills it before the model is loaded, `stand` stops the thread that
consumes messages on its first message, and nothing breaks if it is not set.
"""

from tests.worker_process import WorkerProcess

#: it breaks on prompts with more tokens; warming up uses fewer
LONG = 200


class BrokenWorker(WorkerProcess):
    """Breaks as the variable BREAKS says. Warnings are not errors, as libraries emit some on a card."""

    program = ("-m", "workers.celery_worker")
    app = "tests.broken_app"
