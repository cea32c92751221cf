"""Tables: a row, or one for each of several questions, for each record of a CSV or Parquet file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from producer.images.locations import from_text
from producer.inputs.files import Input, suffix
from producer.inputs.jsonl import LONGEST_LINE, numbered_lines
from producer.inputs.row import BadRow, Row, each_question, named, printable
from producer.inputs.source import Source
from vqa.errors import BadImage, InvalidJob, SettingsError, VQAError
from vqa.image import to_data_url

#: records of a Parquet file that are in memory at once; each may hold an image
_AT_ONCE = 64


def read_csv(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Rows of a file with a line of names first. Raises SettingsError where a column is missing.

    A row's number is that of the line where its record begins.
    """
    # for the whole process: an image as a data: address is longer than the usual 128 KiB
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    with input.open() as stream:
        lines = _Lines(numbered_lines(stream))
        records = csv.reader(lines, delimiter="\t" if suffix(input.name) == ".tsv" else ",", strict=True)
        names: list[str] = []
        while True:
            number = lines.number + 1
            try:
                record = next(records)
                if record and not names:
                    names = _header(record, input, source)
                elif record:
                    yield from _rows(number, _by_name(record, names), input, source)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(number, None, InvalidJob(f"not CSV: {error}"))
            except InvalidJob as error:
                yield BadRow(number, None, error)


class _Lines:
    """The text of lines for the csv module; one that cannot be read raises InvalidJob, and the next are given after."""

    def __init__(self, lines: Iterator[tuple[int, str | InvalidJob]]) -> None:
        self._lines = lines
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, InvalidJob):
            raise line
        return line


def _by_name(record: list[str], names: list[str]) -> dict[str, str]:
    if len(record) != len(names):
        raise InvalidJob(f"{len(record)} columns, not {len(names)}")
    return dict(zip(names, record, strict=True))


def read_parquet(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Rows of a file whose images are paths, addresses, bytes, or `{"bytes", "path"}` as `datasets` has them.

    Read by batches of records. Raises SettingsError where a column is missing, or the file is not whole.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # buffered: else a whole column of a row group is read at once
        with parquet.ParquetFile(input.name, buffer_size=2**20, pre_buffer=False) as file:
            names = _header(file.schema_arrow.names, input, source)
            wanted = [name for name in _columns(source) if name in names]
            for batch in file.iter_batches(batch_size=_AT_ONCE, columns=wanted):
                for record in _records(batch):
                    number += 1
                    if isinstance(record, InvalidJob):
                        yield BadRow(number, None, record)
                    else:
                        yield from _rows(number, record, input, source)
    except (pyarrow.ArrowException, OSError) as error:
        if not number:
            raise SettingsError(f"{input.name} cannot be read as Parquet") from None
        reason = type(error).__name__
        yield BadRow(number + 1, None, InvalidJob(f"the rest of the file cannot be read, it is damaged: {reason}"))


def _records(batch: Any) -> Iterator[dict[str, Any] | InvalidJob]:
    for at in range(batch.num_rows):
        try:
            yield batch.slice(at, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield InvalidJob("not UTF-8")


def _columns(source: Source) -> list[str]:
    names = source.columns
    return [names.id, names.image, *([] if source.questions else [names.question])]


def _header(names: list[str], input: Input, source: Source) -> list[str]:
    for name in _columns(source):
        if names.count(name) != 1:
            how = "no column" if name not in names else "more than one column"
            raise SettingsError(
                f"{input.name}: {how} {name}; --id-column, --image-column and --question-column name them"
            )
    return names


def _rows(number: int, record: Mapping[str, Any], input: Input, source: Source) -> Iterator[Row | BadRow]:
    custom_id = None
    try:
        found = record[source.columns.id]
        custom_id = printable(str(found) if type(found) is int else found)
        image = _image(record[source.columns.image], input.folder)
        questions = source.questions or (record[source.columns.question],)
        if not isinstance(questions[0], str):
            raise InvalidJob(f"{source.columns.question}: a row needs one, a string")
        yield from each_question(number, named(custom_id, source.columns.id), image, questions, source.defaults)
    except VQAError as error:
        yield BadRow(number, custom_id, error)


def _image(value: object, folder: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return to_data_url(value)
    if isinstance(value, str):
        return from_text(value, folder)
    raise BadImage(f"an image is a path, an address or bytes, not {type(value).__name__}")
