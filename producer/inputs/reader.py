"""Rows from a source, whatever its form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from producer.inputs.checking import Checker
from producer.inputs.input import Form, Input
from producer.inputs.jsonl import read_openai, read_short
from producer.inputs.pictures import read_pictures
from producer.inputs.row import BadRow, Row
from producer.inputs.source import Source
from producer.inputs.tables import read_csv, read_parquet
from vqa.errors import InvalidJob, VQAError

_READERS: Mapping[Form, Callable[[Input, Source], Iterator[Row | BadRow]]] = {
    "openai": read_openai,
    "short": read_short,
    "csv": read_csv,
    "parquet": read_parquet,
}


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """The rows, in the input's order, as they are asked for; one file is open at a time, and no picture.

    Each would be a job once its pictures are read. Raises SettingsError where an input cannot be read at all; one that
    breaks off is a BadRow there.
    """
    judge = _Judge()
    if source.form == "pictures":
        yield from map(judge.judged, read_pictures(source))
        return
    for input in source.inputs:
        for row in map(judge.judged, _READERS[source.form](input, source)):
            if isinstance(row, BadRow) and len(source.inputs) > 1:
                # numbers begin anew in each file
                yield BadRow(row.number, row.custom_id, type(row.error)(f"{input.name}: {row.error}"))
            else:
                yield row


class _Judge:
    """Finds rows bad that were read well: no jobs, or of an id that an earlier one has, good or bad."""

    def __init__(self) -> None:
        self._checker = Checker()
        # a hash of 64 bits a row is all that is kept: inputs may be larger than memory
        self._seen: set[int] = set()

    def judged(self, row: Row | BadRow) -> Row | BadRow:
        if row.custom_id is not None:
            hashed = hash(row.custom_id)
            if hashed in self._seen:
                return BadRow(row.number, row.custom_id, InvalidJob("an earlier row has the same custom_id"))
            self._seen.add(hashed)
        if isinstance(row, Row):
            try:
                self._checker.check(row)
            except VQAError as error:
                return BadRow(row.number, row.custom_id, error)
        return row
