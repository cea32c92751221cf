"""`vqa collect BATCH`: the answers of a batch that was submitted with --detach, from any machine."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from producer.batches import Result
from producer.bulk.lines import Failure, OpenAI, encode
from producer.bulk.plan import errors_beside
from producer.bulk.progress import bar
from producer.bulk.run import FAILED_ROWS
from producer.client import Client
from vqa.answer import Answer
from vqa.batches import EXPIRED_CODE
from vqa.errors import DeadlineExceeded, SettingsError


def fetch(id: str, output: Path | None, errors: Path | None, timeout_s: float | None) -> int:
    """Write OpenAI's lines as rows end, those without an answer into ERR; the exit status.

    Raises UnknownBatch, SettingsError, QueueUnavailable, OSError.
    """
    answered = failed = 0
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        batch = client.batch(id)
        state = batch.state()
        if not state.detached:
            raise SettingsError(f"the answers of {id} are written by the `vqa submit` that sent it")
        beside = errors or (errors_beside(output) if output else None)
        for path in (output, beside):
            if path and path.exists() and path.stat().st_size:
                raise SettingsError(f"{path} is there already; name another file")
        out = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
        err = stack.enter_context(beside.open("wb")) if beside else out
        show = stack.enter_context(bar(among_answers=output is None))
        for result in batch.results(timeout_s):
            if isinstance(result.outcome, Answer):
                answered += 1
                out.write(encode(OpenAI().answered(result.custom_id, result.outcome)))
                out.flush()
            else:
                failed += 1
                err.write(encode(_failed(result, expires=bool(state.expires))))
                err.flush()
            show(answered + failed, failed)
    print(f"{answered:,} answered, {failed:,} failed", file=sys.stderr)
    return FAILED_ROWS if failed else 0


def _failed(result: Result, expires: bool) -> dict[str, object]:
    assert not isinstance(result.outcome, Answer)
    late = expires and isinstance(result.outcome, DeadlineExceeded)
    code = EXPIRED_CODE if late else result.outcome.code()
    return OpenAI().failed(result.id, result.custom_id, Failure(code, str(result.outcome), 0))
