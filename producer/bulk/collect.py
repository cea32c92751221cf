"""`vqa collect`: answers to jobs that were submitted before, by their ids or their batch's, from any machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from producer.bulk.output.formats import Failure, Form, OpenAI, Short
from producer.bulk.output.writer import Book
from producer.bulk.plan import errors_beside
from producer.bulk.summary import bar
from producer.client.batches import Batch, is_batch
from producer.client.client import Client
from producer.process import NOT_ALL, TEMPORARY
from vqa.answer import Answer
from vqa.errors import AnswerTimeout, DeadlineExceeded, SettingsError
from vqa.ledger.batches import EXPIRED_CODE, BatchState
from vqa.results import Outcome

#: custom_id, job's id, how it ended; None where it has not
Ended = tuple[str, str, Answer | Failure | None]


def collect(ids: list[str], output: Path | None, errors: Path | None, timeout_s: float | None) -> int:
    """Write lines as jobs end; the exit status. Raises UnknownBatch, SettingsError, QueueUnavailable, OSError.

    A batch's are OpenAI's, with those that have no answer in ERR; of jobs by id the short form's.
    """
    for id in ids:
        if Path(id).is_file():
            raise SettingsError(f"{id} is a file; the same `vqa submit` command goes on with it where it ended")
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        ended: Iterable[Ended]
        form: Form
        batch = client.batch(ids[0]) if len(ids) == 1 and is_batch(ids[0]) else None
        if batch is not None:
            state = batch.state()
            if not state.detached:
                raise SettingsError(f"the answers of {batch.id} are written by the `vqa submit` that sent it")
            ended, form = _of_batch(batch, state, timeout_s), OpenAI()
            errors = errors or (errors_beside(output) if output else None)
        else:
            ended, form = ((id, id, _told(outcome)) for id, outcome in client.answers(ids, timeout_s)), Short()
        for path in (output, errors):
            if path and path.is_file() and path.stat().st_size:
                raise SettingsError(f"{path} is there already; name another file")
        book = Book.of_lines("", form, output, errors, stack)
        open = _write(book, ended, among_answers=output is None)
        growing = batch is not None and not batch.state().whole
    print(f"{book.tally.answered:,} answered, {book.tally.failed:,} failed", file=sys.stderr)
    if open or growing:
        more = ", and rows are still being added" if growing else ""
        print(f"vqa: {open:,} have not ended yet{more}; collect them later", file=sys.stderr)
        return TEMPORARY
    return NOT_ALL if book.tally.failed else 0


def _of_batch(batch: Batch, state: BatchState, timeout_s: float | None) -> Iterator[Ended]:
    for result in batch.results(timeout_s):
        late = state.expires and isinstance(result.outcome, DeadlineExceeded)
        yield result.custom_id, result.id, _told(result.outcome, EXPIRED_CODE if late else None)


def _told(outcome: Outcome, code: str | None = None) -> Answer | Failure | None:
    if isinstance(outcome, Answer):
        return outcome
    return None if isinstance(outcome, AnswerTimeout) else Failure(code or outcome.code(), str(outcome), 0)


def _write(book: Book, ended: Iterable[Ended], among_answers: bool) -> int:
    """How many are open still."""
    open = 0
    with bar(among_answers) as show:
        try:
            for custom_id, id, told in ended:
                if isinstance(told, Answer):
                    book.answered(custom_id, told)
                elif told:
                    book.failed(id, custom_id, told)
                else:
                    open += 1
                if book.due:
                    book.commit()
                show(book.tally.answered + book.tally.failed, book.tally.failed)
        finally:
            book.commit()
    return open
