"""What one `vqa submit` is to do, and where its lines go."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from producer.bulk.batch import BulkClient, Register
from producer.bulk.output.formats import Form, OpenAI, Short
from producer.bulk.output.sidecar import Record, Sidecar
from producer.bulk.output.writer import Book, FiledBook
from producer.inputs import Source
from vqa.errors import InvalidJob, SettingsError
from vqa.job import Job


@dataclass(frozen=True, slots=True)
class Plan:
    """The command's options."""

    source: Source
    #: standard output where None
    out: Path | None = None
    #: beside OUT where None; in OUT for the short form
    errors: Path | None = None
    strict: bool = False
    restart: bool = False
    retry_failed: bool = False
    #: by the workers' slots where None
    max_inflight: int | None = None
    within_s: float | None = None
    price: float | None = None
    #: fields of a job, for rows that do not have them, that change nothing about the answer: they may differ from run
    #: to run of one batch
    delivery: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise SettingsError where `delivery` is nothing that a job has."""
        try:
            Job(messages=[{"role": "user", "content": "?"}], **self.delivery)
        except InvalidJob as error:
            raise SettingsError(str(error)) from None

    @property
    def piped(self) -> bool:
        """Whether an input can be read only once."""
        return any(input.rest is not None for input in self.source.inputs)

    @property
    def inputs(self) -> tuple[str, ...]:
        """By which the same inputs are known again."""
        return tuple("-" if each.rest is not None else os.path.abspath(each.name) for each in self.source.inputs)

    @property
    def form(self) -> Form:
        """Of the lines."""
        return Short() if self.source.form == "short" else OpenAI()


@dataclass(frozen=True, slots=True)
class Opened:
    """A book, and what is remembered of its batch."""

    book: Book
    record: Record
    #: None where the lines go to a stream
    sidecar: Sidecar | None = None
    #: whether nothing of this batch was sent before
    fresh: bool = True


def errors_beside(out: Path) -> Path:
    """answers.errors.jsonl.gz for answers.jsonl.gz."""
    packed = out.suffix if out.suffix.lower() in (".gz", ".zst") else ""
    name = out.name.removesuffix(packed)
    base, suffix = os.path.splitext(name)
    return out.with_name(f"{base}.errors{suffix}{packed}")


def open_book(plan: Plan, client: BulkClient, stack: ExitStack) -> Opened:
    """Where the lines go, with what is there already. Raises SettingsError where they must not go there."""
    if plan.out is None or (plan.out.exists() and not plan.out.is_file()):
        _refuse_inputs(plan, plan.errors)
        record = Record.new(plan.inputs, plan.source.form)
        return Opened(Book.of_lines(record.batch, plan.form, plan.out, plan.errors, stack), record)
    out = plan.out
    errors = plan.errors or (out if plan.source.form == "short" else errors_beside(out))
    if os.path.realpath(errors) == os.path.realpath(out):
        errors = out
    _refuse_inputs(plan, out, errors)
    sidecar = Sidecar(out)
    if os.path.realpath(errors) == os.path.realpath(sidecar.path):
        raise SettingsError(f"{errors} is what `vqa submit` remembers {out} by; name another file for errors")
    stack.callback(sidecar.close)
    record, fresh = _record(plan, client, sidecar, out, errors)
    book = FiledBook(record.batch, plan.form, out, errors, plan.retry_failed)
    stack.callback(book.close)
    return Opened(book, record, sidecar, fresh)


def _record(plan: Plan, client: BulkClient, sidecar: Sidecar, out: Path, errors: Path) -> tuple[Record, bool]:
    before = sidecar.read()
    # so that the folder may be moved
    told = os.path.relpath(os.path.realpath(errors), os.path.realpath(out.parent))
    if before is None or plan.restart:
        if not plan.restart:
            for path in (out, errors):
                _refuse_content(path, sidecar)
        elif before is not None:
            print(f"vqa: beginning anew: what is open of {before.batch} is cancelled first", file=sys.stderr)
            with Register(before.batch, client) as old:
                old.cancel()
        record = Record.new(plan.inputs, plan.source.form, told)
        # first, so that lines of the old batch are never taken for this one's
        sidecar.write(record)
        if plan.restart:
            for path in (out, errors):
                path.unlink(missing_ok=True)
        return record, True
    if (before.input, before.form) != (plan.inputs, plan.source.form):
        raise SettingsError(
            f"{out} belongs to another input ({', '.join(before.input)}); name another file, or --restart"
        )
    if before.errors not in (None, told):
        where = out.parent / str(before.errors)
        raise SettingsError(f"rows without an answer are in {where} so far; name it with --errors, or --restart")
    if plan.retry_failed:
        before = replace(before, began=time.time())
        sidecar.write(before)
    return before, False


def _refuse_content(path: Path, sidecar: Sidecar) -> None:
    if path.exists() and path.stat().st_size:
        sidecar.remove()
        raise SettingsError(
            f"{path} is there, and no {sidecar.path.name} to go on from; name another file, or --restart"
        )


def _refuse_inputs(plan: Plan, *outputs: Path | None) -> None:
    for output in outputs:
        for each in plan.source.inputs:
            # a glob is no file
            there = each.rest is None and output and output.exists() and os.path.exists(each.name)
            if there and output and output.samefile(each.name):
                raise SettingsError(f"{output} is what is to be asked; name another file for what comes of it")
