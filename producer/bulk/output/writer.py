"""OUT and ERR as one: what they held before, what this run adds, and how they are left."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from producer.bulk.output.codec import codec_of
from producer.bulk.output.files import FULL_BYTES, LineFile, Lines, Outputs, Stream, replace
from producer.bulk.output.finished_rows import Done
from producer.bulk.output.formats import Failure, Form, Told, encode, read_back
from producer.bulk.summary import Tally
from vqa.answer import Answer
from vqa.errors import BadImage, ImageMissing, InvalidJob, JobGivenUp

#: of the lines that were written last, the outcomes may still be in Redis
LAST = 5000


#: what rows fail with that may never have come to a worker
_NEVER_RAN = frozenset({BadImage.code(), InvalidJob.code(), ImageMissing.code()})


class Book:
    """The lines of one batch."""

    def __init__(self, batch: str, form: Form, outputs: Outputs) -> None:
        self.batch = batch
        self._form = form
        self._outputs = outputs
        self.done = Done(batch)
        self.done.seal()
        self.tally = Tally()
        #: rows that earlier runs ended
        self.earlier = 0
        #: failed rows that are to be sent again
        self.again = Done(batch)
        self.again.seal()
        #: the newest ids of earlier runs, but for dead letters
        self.last: deque[str] = deque(maxlen=LAST)

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        return self._outputs.due

    @property
    def resumable(self) -> bool:
        """Whether a later run can go on from what is written."""
        return False

    def answered(self, custom_id: str | None, answer: Answer) -> None:
        """Add an answer."""
        self._add(self._outputs.out, encode(self._form.answered(custom_id, answer)), Told.by(answer))

    def failed(self, id: str, custom_id: str | None, failure: Failure) -> None:
        """Add a row that has none."""
        line = encode(self._form.failed(id, custom_id, failure))
        self._add(self._outputs.err, line, Told(id, failure.code))

    def _add(self, lines: Lines, line: bytes, told: Told) -> None:
        lines.add(line)
        self.tally.add(told)
        # rows without jobs may come without end, and with no outcome between them
        if lines.waiting >= FULL_BYTES:
            self.commit()

    def commit(self) -> None:
        """When this returns, all that was added is there for good. Raises OSError."""
        self._outputs.commit()

    def finish(self) -> None:
        """The input has been read to its end."""
        self.commit()

    @classmethod
    def of_lines(cls, batch: str, form: Form, path: Path | None, errors: Path | None, stack: ExitStack) -> Self:
        """Of lines that nothing goes on from; what is in a file is replaced.

        Without a path they go to standard output, and without one of their own errors are among the answers.
        """
        out = _lines_at(path, stack) if path else Stream(sys.stdout.buffer)
        apart = errors and not (path and os.path.realpath(errors) == os.path.realpath(path))
        err = _lines_at(errors, stack) if errors and apart else out
        return cls(batch, form, Outputs(out, err))


class FiledBook(Book):
    """OUT and ERR as files, gone on with."""

    def __init__(self, batch: str, form: Form, out: Path, errors: Path, retry_failed: bool) -> None:
        self._out = LineFile(out)
        self._err = self._out if errors == out else LineFile(errors)
        super().__init__(batch, form, Outputs(self._out, self._err))
        self._read(retry_failed)

    @property
    def _files(self) -> tuple[LineFile, ...]:
        return (self._out,) if self._err is self._out else (self._out, self._err)

    @property
    def resumable(self) -> bool:
        """They are files."""
        return True

    def _read(self, retry_failed: bool) -> None:
        self.done, self.again = Done(self.batch), Done(self.batch)
        #: whether there are lines that are not this batch's
        self._strange = False
        for told in self._told():
            if told is None:
                self._strange = True
            elif retry_failed and told.code is not None:
                self.again.add(told.id)
            elif self.done.add(told.id):
                self.tally.add(told)
                if told.code != JobGivenUp.code():
                    self.last.append(told.id)
            else:
                self._strange = True
        self.done.seal()
        self.again.seal()
        self.earlier = len(self.done)
        if len(self.again):
            self._rewrite(lambda told: told.code is None)

    def _told(self) -> Iterator[Told | None]:
        for file in self._files:
            if file.path.exists():
                with file.codec.open(file.path) as lines:
                    for line in lines:
                        yield read_back(self._form, line)

    def finish(self) -> None:
        """Drop lines of rows that have newer ones. What is answered stays, though the input asks for it no more."""
        self.commit()
        if self.done.stale or self.done.doubled or self._strange:
            self.tally, self.earlier = Tally(), 0
            anew = self._ended_anew()
            self._rewrite(lambda told: self._is_wanted(told, anew))
        self._out.touch()

    def _ended_anew(self) -> set[int]:
        """Hashes of the custom_ids of rows that a worker ended, as the input asks for them now."""
        lines = (told for told in self._told() if told is not None and self.done.asked(told.id))
        return {hash(told.custom_id) for told in lines if told.code not in _NEVER_RAN}

    def _is_wanted(self, told: Told, anew: set[int]) -> bool:
        fate = self.done.fate(told.id)
        # an answer is not thrown away because its image, or the rest of the input, cannot be read for the moment
        if fate == "drop" or (fate == "stale" and (told.code is not None or hash(told.custom_id) in anew)):
            return False
        self.tally.add(told)
        self.earlier += fate != "new"
        return True

    def _rewrite(self, wanted: Callable[[Told], bool]) -> None:
        for file in self._files:
            file.close()
            if file.path.exists():
                rewrite(file, self._form, wanted)
        if self._err is not self._out and self._err.path.exists() and not self._err.path.stat().st_size:
            self._err.path.unlink()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()


def _lines_at(path: Path, stack: ExitStack) -> Lines:
    if path.exists() and not path.is_file():
        return Stream(stack.enter_context(path.open("wb")))
    # in place: it may be a link, or somebody's open file
    path.write_bytes(codec_of(path).pack(b""))
    file = LineFile(path)
    stack.callback(file.close)
    return file


def rewrite(file: LineFile, form: Form, wanted: Callable[[Told], bool]) -> None:
    """Write the file anew, with those of its lines that are wanted; whole, whatever ends the process."""
    # what a link leads to is replaced, not the link
    path = file.path.resolve()
    temporary = path.with_name(f".{path.name}.new")
    lines: list[bytes] = []
    size = 0
    with file.codec.open(path) as old, temporary.open("wb") as new:
        for line in old:
            told = read_back(form, line)
            if told is None or not wanted(told):
                continue
            lines.append(line)
            size += len(line)
            if size >= FULL_BYTES:
                new.write(file.codec.pack(b"".join(lines)))
                lines, size = [], 0
        if lines:
            new.write(file.codec.pack(b"".join(lines)))
    shutil.copymode(path, temporary)
    replace(path, temporary)
