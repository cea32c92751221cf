"""`celery -A bench.queue.streaming_worker`: an echo worker with long answers that notes when each piece is made.

BENCH_PIECES names the file; a line is a time of `time.monotonic()`, the job's id and the characters so far.
"""

from __future__ import annotations

import os
import time

from workers.engine.base import Prompt
from workers.engine.echo import engine
from workers.jobs import text_writer
from workers.jobs.text_buffer import Buffer
from workers.process.lifecycle import make_worker_app

#: with the delay of `bench.queue.streaming`, a piece of 4 characters every 10 ms, as tokens of a model
CHARACTERS = 400

_echo_of = engine.echo_of
_append = text_writer.TextWriter._append
_file = open(os.environ["BENCH_PIECES"], "a", buffering=1)  # noqa: SIM115  # until the process ends


def _long_echo(prompt: Prompt) -> str:
    return (_echo_of(prompt) * CHARACTERS)[:CHARACTERS]


def _noted(self: text_writer.TextWriter, buffer: Buffer, piece: str) -> None:
    made = time.monotonic()
    _append(self, buffer, piece)
    _file.write(f"{made} {buffer.id} {buffer.appended}\n")


engine.echo_of = _long_echo
text_writer.TextWriter._append = _noted  # type: ignore[method-assign]  # for this process alone
app = make_worker_app()
