"""`vqa collect`: write the answers of a detached batch, or of jobs by id, from any machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from producer.bulk.output.formats import Failure, LineFormat, OpenAIFormat, ShortFormat
from producer.bulk.output.writer import ResultWriter
from producer.bulk.plan import errors_beside
from producer.bulk.summary import partial_lines, progress_bar
from producer.client.batches import Batch, is_batch
from producer.client.client import Client
from producer.process import NOT_ALL, TEMPORARY
from vqa.answer import Answer
from vqa.errors import AnswerTimeout, DeadlineExceeded, SettingsError
from vqa.ledger.batch_state import EXPIRED_CODE, BatchState
from vqa.results import Outcome

#: custom_id, job id, and the result; None for a job that has not ended
Result = tuple[str, str, Answer | Failure | None]


def collect(
    ids: list[str], output: Path | None, errors: Path | None, timeout_s: float | None, quiet: bool = False
) -> int:
    """Write results as jobs end, and return the exit status.

    Results of a batch have OpenAI's format, with failures in ERR; results of jobs by id have the short format.
    Raises UnknownBatch, SettingsError, QueueUnavailable and OSError.
    """
    for id in ids:
        if Path(id).is_file():
            raise SettingsError(f"{id} is a file, not an id; to resume a submission, repeat its `vqa submit` command")
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        results: Iterable[Result]
        format: LineFormat
        batch = client.batches.retrieve(ids[0]) if len(ids) == 1 and is_batch(ids[0]) else None
        if batch is not None:
            state = batch.state()
            if not state.detached:
                raise SettingsError(f"{batch.id} was not detached; the `vqa submit` that sent it writes its answers")
            results, format = _batch_results(batch, state, timeout_s), OpenAIFormat()
            errors = errors or (errors_beside(output) if output else None)
        else:
            results = ((id, id, _result(outcome)) for id, outcome in client.answers(ids, timeout_s))
            format = ShortFormat()
        for path in (output, errors):
            if path and path.is_file() and path.stat().st_size:
                raise SettingsError(f"{path} exists; choose another file")
        writer = ResultWriter.create("", format, output, errors, stack)
        open = _write(writer, results, quiet, among_answers=output is None)
        growing = batch is not None and not batch.state().has_all_rows
    totals = writer.totals
    if not quiet:
        print(f"{totals.answered:,} answered, {totals.failed:,} failed", file=sys.stderr)
        for line in partial_lines(totals):
            print(line, file=sys.stderr)
    if open or growing:
        more = ", and rows are still being added" if growing else ""
        print(f"vqa: {open:,} jobs have not ended yet{more}; collect them later", file=sys.stderr)
        return TEMPORARY
    return NOT_ALL if totals.failed else 0


def _batch_results(batch: Batch, state: BatchState, timeout_s: float | None) -> Iterator[Result]:
    for result in batch.results(timeout_s):
        expired = state.expires and isinstance(result.outcome, DeadlineExceeded)
        yield result.custom_id, result.id, _result(result.outcome, EXPIRED_CODE if expired else None)


def _result(outcome: Outcome, code: str | None = None) -> Answer | Failure | None:
    if isinstance(outcome, Answer):
        return outcome
    return None if isinstance(outcome, AnswerTimeout) else Failure(code or outcome.code(), str(outcome), 0)


def _write(writer: ResultWriter, results: Iterable[Result], quiet: bool, among_answers: bool) -> int:
    """Write the results; return the number of jobs that have not ended."""
    open = 0
    with progress_bar(quiet, among_answers) as show:
        try:
            for custom_id, id, result in results:
                if isinstance(result, Answer):
                    writer.write_answer(custom_id, result)
                elif result:
                    writer.write_failure(id, custom_id, result)
                else:
                    open += 1
                if writer.due:
                    writer.commit()
                show(writer.totals.answered + writer.totals.failed, writer.totals.failed, 0, None)
        finally:
            writer.commit()
    return open
