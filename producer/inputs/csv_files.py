"""CSV files as inputs, with the delimiters and the broken quotes that people have."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from producer.inputs.files import Input, file_suffix
from producer.inputs.jsonl import MAX_LINE_BYTES, numbered_lines
from producer.inputs.row import BadRow, Row
from producer.inputs.source import Source
from producer.inputs.tables import checked_header, required_columns, rows_of_record
from vqa.errors import InvalidJob, SettingsError


def read_csv(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file with a header. Raises SettingsError if a column is missing.

    Columns are separated by commas, tabs or semicolons, whichever the header has. A row's number is the line on which
    its record starts.
    """
    # process-wide: an image as a data: URL exceeds the default of 128 KiB
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with input.open() as stream:
        lines = _Lines(numbered_lines(stream))
        delimiter = _delimiter(lines.first_text(input.name), input, source)
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            number = lines.number + 1
            try:
                record = next(records)
                if record and not header:
                    header = checked_header(record, input, source)
                elif record:
                    yield from rows_of_record(number, _by_name(record, header), input, source)
            except StopIteration:
                return
            except csv.Error as error:
                yield _broken(number, lines.number - number, error)
            except InvalidJob as error:
                yield BadRow(number, None, error, max(0, lines.number - number))


def count_records(input: Input, source: Source) -> Iterator[int]:
    """Yield 1 for each record behind the header, without checking it. Raises InvalidJob if a line cannot be read."""
    with input.open() as stream:
        lines = _Lines(numbered_lines(stream))
        delimiter = _delimiter(lines.first_text(input.name), input, source)
        # the reader of rows has raised the limit of a field
        records = filter(None, csv.reader(lines, delimiter=delimiter))
        next(records, None)
        yield from (1 for _ in records)


def _broken(number: int, swallowed: int, error: csv.Error) -> BadRow:
    if swallowed <= 0:
        return BadRow(number, None, InvalidJob(f"not CSV: {error}"))
    last = number + swallowed
    why = f"not CSV: the quote that opens in the record of line {number} is not closed properly"
    return BadRow(
        number, None, InvalidJob(f"{why}; {swallowed:,} more lines, up to line {last}, belong to it"), swallowed
    )


def _delimiter(line: str, input: Input, source: Source) -> str:
    """Return the delimiter by which the first line has the columns."""
    usual = "\t" if file_suffix(input.name) == ".tsv" else ","
    try:
        for delimiter in (usual, ",", "\t", ";"):
            if set(required_columns(source)) <= set(next(csv.reader([line], delimiter=delimiter), ())):
                return delimiter
    except csv.Error:
        problem = "its lines end in carriage returns alone; convert them: tr '\\r' '\\n' < OLD > NEW"
        raise SettingsError(f"{input.name}: {problem}") from None
    return usual


class _Lines:
    """The lines as csv.reader takes them: an unreadable line raises InvalidJob, and iteration can continue after it."""

    def __init__(self, lines: Iterator[tuple[int, str | InvalidJob]]) -> None:
        self._lines = lines
        self._first: tuple[int, str | InvalidJob] | None = None
        self.number = 0

    def first_text(self, name: str) -> str:
        """Return the first line that is not blank, which iteration yields as well. Raises SettingsError."""
        for number, line in self._lines:
            if isinstance(line, InvalidJob):
                raise SettingsError(f"{name}: line {number}: {line}")
            if "\0" in line:
                raise SettingsError(f"{name}: not UTF-8 but, it seems, UTF-16; save the file as UTF-8")
            if not line.isspace():
                self._first = number, line
                return line
        return ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = self._first or next(self._lines)
        self._first = None
        if isinstance(line, InvalidJob):
            raise line
        return line


def _by_name(record: list[str], header: list[str]) -> dict[str, str]:
    if len(record) != len(header):
        raise InvalidJob(f"{len(record)} columns, but the header has {len(header)}")
    return dict(zip(header, record, strict=True))
