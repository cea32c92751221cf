"""Writers of a batch's result lines to OUT and ERR."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from producer.bulk.output.codec import codec_for
from producer.bulk.output.files import FLUSH_BYTES, LineFile, LineSink, Outputs, StreamSink
from producer.bulk.output.finished_rows import FinishedRows
from producer.bulk.output.formats import Failure, LineFormat, LineSummary, encode, parse_line
from producer.bulk.output.review import parse_review
from producer.bulk.output.rewrite import rewrite
from producer.bulk.output.totals import Totals
from vqa.answer import Answer
from vqa.errors import BadImage, ImageMissing, ImageUnavailable, InvalidJob, JobGivenUp, ModelNotFound

#: outcomes of the last lines of a killed run may still be in Redis: that run had no time to delete them
_MAX_RECENT = 5000

#: codes of rows that may have failed before a worker saw them
_NEVER_RAN = frozenset(each.code() for each in (BadImage, InvalidJob, ModelNotFound, ImageMissing, ImageUnavailable))


class ResultWriter:
    """Writes the result lines of one batch; a later run cannot resume from them."""

    #: whether a later run can resume from what was written
    resumable = False

    def __init__(self, batch: str, format: LineFormat, outputs: Outputs) -> None:
        self.batch = batch
        self._format = format
        self._outputs = outputs
        #: jobs that have a line from an earlier run
        self.finished = FinishedRows(batch)
        #: jobs that failed in an earlier run and are to be sent again
        self.retrying = FinishedRows(batch)
        self.totals = Totals()
        #: rows finished by earlier runs
        self.earlier = 0
        #: lines of REVIEW
        self.reviewed = 0
        #: the newest job ids of earlier runs, without dead letters
        self.recent_ids: deque[str] = deque(maxlen=_MAX_RECENT)

    @property
    def due(self) -> bool:
        return self._outputs.due

    def write_answer(self, custom_id: str | None, answer: Answer) -> None:
        line = encode(self._format.answer(custom_id, answer))
        self._write(self._outputs.out, line, LineSummary.from_answer(answer, custom_id))

    def write_review(self, line: Mapping[str, Any]) -> None:
        """Write a line to REVIEW, which must be there. The row's answer must be written after it."""
        assert self._outputs.review is not None
        self._outputs.review.add(encode(line))
        self.reviewed += 1

    def write_failure(self, id: str, custom_id: str | None, failure: Failure) -> None:
        line = encode(self._format.failure(id, custom_id, failure))
        self._write(self._outputs.err, line, LineSummary(id, failure.code))

    def _write(self, sink: LineSink, line: bytes, summary: LineSummary) -> None:
        sink.add(line)
        self.totals.add(summary)
        # an input may consist of invalid rows only, with no outcome that triggers a commit
        if sink.pending_bytes >= FLUSH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make all lines written so far durable. Raises OSError."""
        self._outputs.commit()

    def finish(self) -> None:
        """Commit, and clean up the files once the whole input has been read."""
        self.commit()

    @classmethod
    def create(
        cls,
        batch: str,
        format: LineFormat,
        path: Path | None,
        errors: Path | None,
        stack: ExitStack,
        review: Path | None = None,
    ) -> Self:
        """Create a writer that overwrites `path`, `errors` and `review`.

        Without `path`, lines go to standard output. Without `errors`, failures are written among the answers.
        """
        out = _open_sink(path, stack) if path else StreamSink(sys.stdout.buffer)
        separate = errors and not (path and os.path.realpath(errors) == os.path.realpath(path))
        err = _open_sink(errors, stack) if errors and separate else out
        return cls(batch, format, Outputs(out, err, _open_sink(review, stack) if review else None))


class ResumableWriter(ResultWriter):
    """Writes to files and continues with what earlier runs left there."""

    resumable = True

    def __init__(
        self, batch: str, format: LineFormat, out: Path, errors: Path, retry_failed: bool, review: Path | None = None
    ) -> None:
        self._out = LineFile(out)
        self._err = self._out if errors == out else LineFile(errors)
        self._review = LineFile(review) if review else None
        super().__init__(batch, format, Outputs(self._out, self._err, self._review))
        self._read_files(retry_failed)
        # a row whose answer did not get to OUT before a kill is answered again
        self._rewrite_review(lambda line: line.id in self.finished)

    @property
    def _files(self) -> tuple[LineFile, ...]:
        return (self._out,) if self._err is self._out else (self._out, self._err)

    def _read_files(self, retry_failed: bool) -> None:
        #: whether the files contain lines that are not of this batch
        self._foreign_lines = False
        for line in self._summaries():
            if line is None:
                self._foreign_lines = True
            elif retry_failed and line.code is not None:
                self.retrying.add(line.id)
            elif self.finished.add(line.id):
                self.totals.add(line)
                if line.code != JobGivenUp.code():
                    self.recent_ids.append(line.id)
            else:
                self._foreign_lines = True
        self.finished.seal()
        self.retrying.seal()
        self.earlier = len(self.finished)
        if len(self.retrying):
            self._rewrite(lambda line: line.code is None)

    def _summaries(self) -> Iterator[LineSummary | None]:
        for file in self._files:
            if file.path.exists():
                with file.codec.open(file.path) as lines:
                    for line in lines:
                        yield parse_line(self._format, line)

    def finish(self) -> None:
        """Commit, and drop lines that newer ones replace. Answers to rows that left the input are kept."""
        self.commit()
        if self.finished.has_stale or self.finished.has_duplicates or self._foreign_lines:
            self.totals, self.earlier = Totals(), 0
            replaced = self._custom_ids_in_input()
            # first, as `_keep` changes what `in_input` says
            self._rewrite_review(lambda line: self.finished.in_input(line.id) or hash(line.custom_id) not in replaced)
            self._rewrite(lambda line: self._keep(line, replaced))
        for file in filter(None, (self._out, self._review)):
            file.touch()

    def _custom_ids_in_input(self) -> set[int]:
        """Hash the custom_ids of rows that the input contains and a worker has finished."""
        lines = (line for line in self._summaries() if line is not None and self.finished.in_input(line.id))
        return {hash(line.custom_id) for line in lines if line.code not in _NEVER_RAN}

    def _keep(self, line: LineSummary, replaced: set[int]) -> bool:
        disposition = self.finished.disposition(line.id)
        if disposition == "drop":
            return False
        # keep existing answers even if an image, or the rest of the input, is temporarily unreadable
        if disposition == "stale" and (line.code is not None or hash(line.custom_id) in replaced):
            return False
        self.totals.add(line)
        self.earlier += disposition != "new"
        return True

    def _rewrite(self, keep: Callable[[LineSummary], bool]) -> None:
        for file in self._files:
            file.close()
            if file.path.exists():
                rewrite(file, partial(parse_line, self._format), keep)
        if self._err is not self._out and self._err.path.exists() and not self._err.path.stat().st_size:
            self._err.path.unlink()

    def _rewrite_review(self, keep: Callable[[LineSummary], bool]) -> None:
        """Keep some lines of REVIEW, and count them."""
        if self._review is None or not self._review.path.exists():
            return
        self._review.close()
        with self._review.codec.open(self._review.path) as lines:
            kept = Counter((line := parse_review(each)) is not None and keep(line) for each in lines)
        self.reviewed = kept[True]
        if kept[False]:
            rewrite(self._review, parse_review, keep)

    def close(self) -> None:
        for file in filter(None, (*self._files, self._review)):
            file.close()


def _open_sink(path: Path, stack: ExitStack) -> LineSink:
    if path.exists() and not path.is_file():
        return StreamSink(stack.enter_context(path.open("wb")))
    # truncate in place: the path may be a link, or open in another process
    path.write_bytes(codec_for(path).compress(b""))
    file = LineFile(path)
    stack.callback(file.close)
    return file
