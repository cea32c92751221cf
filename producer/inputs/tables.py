"""CSV and Parquet files as inputs: each record is a row, or one row per question."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from producer.images.locations import resolve_location
from producer.inputs.files import Input, file_suffix
from producer.inputs.jsonl import MAX_LINE_BYTES, numbered_lines
from producer.inputs.row import BadRow, Row, require_id, rows_of_image, valid_id
from producer.inputs.source import Source
from vqa.errors import BadImage, InvalidJob, SettingsError, VQAError
from vqa.image import to_data_url

#: Parquet records in memory at once; each may hold an image
_PARQUET_BATCH = 64


def read_csv(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file with a header. Raises SettingsError if a column is missing.

    A row's number is the line on which its record starts.
    """
    # process-wide: an image as a data: URL exceeds the default of 128 KiB
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with input.open() as stream:
        lines = _Lines(numbered_lines(stream))
        records = csv.reader(lines, delimiter="\t" if file_suffix(input.name) == ".tsv" else ",", strict=True)
        header: list[str] = []
        while True:
            number = lines.number + 1
            try:
                record = next(records)
                if record and not header:
                    header = _checked_header(record, input, source)
                elif record:
                    yield from _rows(number, _by_name(record, header), input, source)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(number, None, InvalidJob(f"not CSV: {error}"))
            except InvalidJob as error:
                yield BadRow(number, None, error)


class _Lines:
    """The lines as csv.reader takes them: an unreadable line raises InvalidJob, and iteration can continue after it."""

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


def _by_name(record: list[str], header: list[str]) -> dict[str, str]:
    if len(record) != len(header):
        raise InvalidJob(f"{len(record)} columns, but the header has {len(header)}")
    return dict(zip(header, record, strict=True))


def read_parquet(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet file. Raises SettingsError if a column is missing or the file is truncated.

    Images are paths, URLs, bytes, or `{"bytes", "path"}` as Hugging Face's `datasets` stores them.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # a buffer, because otherwise a whole column of a row group is read at once
        with parquet.ParquetFile(input.name, buffer_size=2**20, pre_buffer=False) as file:
            header = _checked_header(file.schema_arrow.names, input, source)
            columns = [name for name in _columns(source) if name in header]
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                for record in _records(batch):
                    number += 1
                    if isinstance(record, InvalidJob):
                        yield BadRow(number, None, record)
                    else:
                        yield from _rows(number, record, input, source)
    except (pyarrow.ArrowException, OSError) as error:
        if not number:
            raise SettingsError(f"cannot read {input.name} as Parquet") from None
        reason = type(error).__name__
        yield BadRow(number + 1, None, InvalidJob(f"cannot read the rest of the file, it is damaged: {reason}"))


def _records(batch: Any) -> Iterator[dict[str, Any] | InvalidJob]:
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield InvalidJob("not UTF-8")


def _columns(source: Source) -> list[str]:
    names = source.columns
    return [names.id, names.image, *([] if source.questions else [names.question])]


def _checked_header(header: list[str], input: Input, source: Source) -> list[str]:
    for name in _columns(source):
        if header.count(name) != 1:
            problem = "no column" if name not in header else "more than one column"
            options = "--id-column, --image-column and --question-column"
            raise SettingsError(f"{input.name}: {problem} {name}; name the columns with {options}")
    return header


def _rows(number: int, record: Mapping[str, Any], input: Input, source: Source) -> Iterator[Row | BadRow]:
    custom_id = None
    try:
        value = record[source.columns.id]
        custom_id = valid_id(str(value) if type(value) is int else value)
        image = _image(record[source.columns.image], input.folder)
        questions = source.questions or (record[source.columns.question],)
        if not isinstance(questions[0], str):
            raise InvalidJob(f"{source.columns.question}: a string is required")
        row_id = require_id(custom_id, source.columns.id)
        yield from rows_of_image(number, row_id, image, questions, source.defaults)
    except VQAError as error:
        yield BadRow(number, custom_id, error)


def _image(value: object, folder: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return to_data_url(value)
    if isinstance(value, str):
        return resolve_location(value, folder)
    raise BadImage(f"an image is a path, a URL or bytes, not {type(value).__name__}")
