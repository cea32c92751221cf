"""The options of one `vqa submit`, and the output that they open."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from producer.bulk.batch import BatchReporter, BulkClient
from producer.bulk.output.codec import codec_for
from producer.bulk.output.formats import LineFormat, OpenAIFormat, ShortFormat
from producer.bulk.output.sidecar import BatchRecord, Sidecar
from producer.bulk.output.writer import ResultWriter, ResumableWriter
from producer.images.shrink import Shrink
from producer.inputs import Source
from vqa.errors import InvalidJob, SettingsError
from vqa.jobs.job import Job

#: forms whose rows have no `response_format` of their own
_WITHOUT_FORMATS = frozenset({"csv", "parquet", "images"})


@dataclass(frozen=True, slots=True)
class Review:
    """Which answers are copied to a file for people, and where that is."""

    #: those whose likeliest choice is less probable
    below: float
    path: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of one `vqa submit`."""

    source: Source
    #: None: standard output
    out: Path | None = None
    #: None: a file beside OUT, or for the short form OUT itself
    errors: Path | None = None
    strict: bool = False
    restart: bool = False
    retry_failed: bool = False
    #: None: derived from the workers' slots
    max_inflight: int | None = None
    within_s: float | None = None
    #: price of a GPU hour, for the summary
    price: float | None = None
    quiet: bool = False
    review: Review | None = None
    #: how images are scaled before they are stored, if they are
    shrink: Shrink | None = None
    #: defaults for fields of a job that do not affect its answer, so that the runs of one batch may differ in them
    delivery: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise SettingsError if `delivery` is invalid, or no row can have what `review` needs."""
        format = self.source.defaults.get("response_format", {})
        if self.review and not format.get("probabilities") and self.source.form in _WITHOUT_FORMATS:
            raise SettingsError("--review-below needs the probabilities of choices; give --choice")
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
        """Absolute paths by which a later run recognises the inputs; - is a pipe or standard input."""
        return tuple("-" if each.rest is not None else os.path.abspath(each.name) for each in self.source.inputs)

    @property
    def line_format(self) -> LineFormat:
        return ShortFormat() if self.source.form == "short" else OpenAIFormat()


@dataclass(frozen=True, slots=True)
class Output:
    """The open output of one run."""

    writer: ResultWriter
    record: BatchRecord
    #: None if the output is a stream
    sidecar: Sidecar | None = None
    #: whether this is the batch's first run
    fresh: bool = True


def errors_beside(out: Path) -> Path:
    """Return the default ERR, for example answers.errors.jsonl.gz for answers.jsonl.gz."""
    compression = out.suffix if out.suffix.lower() in (".gz", ".zst") else ""
    name = out.name.removesuffix(compression)
    base, suffix = os.path.splitext(name)
    return out.with_name(f"{base}.errors{suffix}{compression}")


def open_output(plan: Plan, client: BulkClient, stack: ExitStack) -> Output:
    """Open OUT and ERR and read what earlier runs wrote. Raises SettingsError if they cannot be used."""
    review = plan.review.path if plan.review else None
    if plan.out is None or (plan.out.exists() and not plan.out.is_file()):
        _refuse_inputs(plan, plan.errors, review)
        _refuse_same(review, plan.errors, plan.out)
        record = BatchRecord.create(plan.inputs, plan.source.form)
        writer = ResultWriter.create(record.batch, plan.line_format, plan.out, plan.errors, stack, review)
        return Output(writer, record)
    out = plan.out
    errors = plan.errors or (out if plan.source.form == "short" else errors_beside(out))
    if os.path.realpath(errors) == os.path.realpath(out):
        errors = out
    files = [out, errors, *([review] if review else [])]
    _refuse_inputs(plan, *files)
    for path in files:
        # refuses zstd before anything is written if it is not installed
        codec_for(path)
        # ERR and REVIEW are opened with their first line, which may come hours later
        if not path.parent.is_dir():
            raise SettingsError(f"{path}: there is no folder {path.parent}")
    sidecar = Sidecar(out)
    if os.path.realpath(errors) == os.path.realpath(sidecar.path):
        raise SettingsError(f"{errors} stores the state of {out}; choose another file for --errors")
    _refuse_same(review, out, errors, sidecar.path)
    stack.callback(sidecar.close)
    record, fresh = _open_record(plan, client, sidecar, files)
    writer = ResumableWriter(record.batch, plan.line_format, out, errors, plan.retry_failed, review)
    stack.callback(writer.close)
    return Output(writer, record, sidecar, fresh)


def _open_record(plan: Plan, client: BulkClient, sidecar: Sidecar, files: Sequence[Path]) -> tuple[BatchRecord, bool]:
    """Return the record of OUT's batch, and whether the batch is new; `files` are OUT, ERR and, if any, REVIEW."""
    out = files[0]
    earlier = sidecar.read()
    # relative, so that the folder may be moved
    errors = _relative(files[1], out)
    review = _relative(plan.review.path, out) if plan.review else None
    below = plan.review.below if plan.review else None
    if earlier is None or plan.restart:
        if not plan.restart:
            for path in files:
                _refuse_content(path, sidecar)
        elif earlier is not None:
            print(f"vqa: restarting: cancelling the open jobs of {earlier.batch}", file=sys.stderr)
            with BatchReporter(earlier.batch, client) as old:
                old.cancel()
        record = BatchRecord.create(plan.inputs, plan.source.form, errors=errors, review=review, review_below=below)
        # before the files are deleted, so that old lines are never taken for lines of the new batch
        sidecar.write(record)
        if plan.restart:
            for path in files:
                path.unlink(missing_ok=True)
        return record, True
    if (earlier.input, earlier.form) != (plan.inputs, plan.source.form):
        inputs = ", ".join(earlier.input)
        raise SettingsError(f"{out} belongs to another input ({inputs}); choose another file, or use --restart")
    if earlier.errors not in (None, errors):
        where = out.parent / str(earlier.errors)
        raise SettingsError(f"earlier runs wrote failed rows to {where}; pass it as --errors, or use --restart")
    if (earlier.review, earlier.review_below) != (review, below):
        options = "neither --review nor --review-below"
        if earlier.review is not None:
            options = f"--review {out.parent / earlier.review} --review-below {earlier.review_below:g}"
        raise SettingsError(f"earlier runs had {options}; pass the same, or use --restart")
    if plan.retry_failed:
        earlier = replace(earlier, began=time.time())
        sidecar.write(earlier)
    return earlier, False


def _relative(path: Path, out: Path) -> str:
    """Return the path from OUT's folder."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(out.parent))


def _refuse_content(path: Path, sidecar: Sidecar) -> None:
    if path.exists() and path.stat().st_size:
        sidecar.remove()
        raise SettingsError(
            f"{path} exists, but {sidecar.path.name} to resume it from does not; choose another file, or use --restart"
        )


def _refuse_same(review: Path | None, *others: Path | None) -> None:
    if review and os.path.realpath(review) in map(os.path.realpath, filter(None, others)):
        raise SettingsError(f"{review} is another output; choose another file for --review")


def _refuse_inputs(plan: Plan, *outputs: Path | None) -> None:
    for output in outputs:
        for each in plan.source.inputs:
            # a glob does not exist as a file
            exists = each.rest is None and output and output.exists() and os.path.exists(each.name)
            if exists and output and output.samefile(each.name):
                raise SettingsError(f"{output} is an input; choose another file for the output")
