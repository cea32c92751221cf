"""`vqa collect`: answers to jobs that were submitted before, by their ids."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from producer.bulk.lines import Failure, Short, encode
from producer.bulk.progress import bar
from producer.bulk.run import FAILED_ROWS
from producer.client import Client
from vqa.answer import Answer
from vqa.errors import SettingsError


def collect(ids: list[str], output: Path | None, timeout_s: float | None) -> int:
    """Wait for the answers and write them; the exit status. Raises SettingsError, QueueUnavailable, OSError."""
    for id in ids:
        if Path(id).is_file():
            raise SettingsError(f"{id} is a file; the same `vqa submit` command goes on with it where it ended")
    form, answered, failed = Short(), 0, 0
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        out = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
        show = stack.enter_context(bar(among_answers=output is None))
        for id, outcome in client.answers(ids, timeout_s):
            if isinstance(outcome, Answer):
                answered += 1
                line = form.answered(id, outcome)
            else:
                failed += 1
                line = form.failed(id, id, Failure(outcome.code(), str(outcome), 0))
            out.write(encode(line))
            out.flush()
            show(answered + failed, failed)
    print(f"{answered:,} answered, {failed:,} failed", file=sys.stderr)
    return FAILED_ROWS if failed else 0
