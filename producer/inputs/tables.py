"""Tables as inputs: each record is a row, or one row per question; and Parquet files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from producer.images.locations import resolve_location
from producer.inputs.files import Input
from producer.inputs.row import JOB_FIELDS, BadRow, Row, require_id, rows_of_images, valid_id
from producer.inputs.source import DEFAULT_COLUMNS, Source
from producer.inputs.visuals import image_parts, visual_parts
from vqa.errors import BadImage, InvalidJob, SettingsError, VQAError
from vqa.images.data_url import to_data_url

#: columns whose text in a CSV file is JSON, and what it has to be
_JSON_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("fps", "max_frames", "max_image_tokens"), "a number"),
    "frames": 'a list in JSON, as in ["1.jpg", "2.jpg"]',
    "times_s": "a list of numbers in JSON, as in [0, 0.5]",
    "shrink_images": "true or false",
}

#: Parquet records in memory at once; each may hold an image
_PARQUET_BATCH = 64


def read_parquet(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet file. Raises SettingsError if a column is missing or the file is truncated.

    Images are paths, URLs, bytes, or `{"bytes", "path"}` as Hugging Face's `datasets` stores them, or lists of these.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # a buffer, because otherwise a whole column of a row group is read at once
        with parquet.ParquetFile(input.name, buffer_size=2**20, pre_buffer=False) as file:
            header = checked_header(file.schema_arrow.names, input, source)
            wanted = (source.columns.id, *required_columns(source))
            columns = [name for name in wanted if name in header]
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                for record in _records(batch):
                    number += 1
                    if isinstance(record, InvalidJob):
                        yield BadRow(number, None, record)
                    else:
                        yield from rows_of_record(number, record, input, source)
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
        except (ValueError, ArithmeticError, LookupError) as error:
            # times beyond Python's years, finer than its microseconds, or in unknown zones
            yield InvalidJob(f"a value cannot be read: {error}"[:200])


def required_columns(source: Source) -> list[str]:
    """Return the columns that a table must have; without the column `id`, which nobody named, rows are numbered."""
    names = source.columns
    id = [] if names.id == DEFAULT_COLUMNS.id else [names.id]
    image = [] if {"video", "frames"} & set(names.fields) else [names.image]
    return [*id, *image, *([] if source.questions else [names.question]), *names.fields]


def checked_header(header: list[str], input: Input, source: Source) -> list[str]:
    """Return `header`. Raises SettingsError if a column is missing, or is there twice."""
    for name in dict.fromkeys((source.columns.id, *required_columns(source))):
        found = header.count(name)
        if found > 1 or (not found and name in required_columns(source)):
            problem = "more than one column" if found else "no column"
            options = "--id-column, --image-column, --question-column and --column"
            has = f"the file has {', '.join(header)[:200] or 'none'}"
            raise SettingsError(f"{input.name}: {problem} {name}; name the columns with {options}; {has}")
    return header


def rows_of_record(number: int, record: Mapping[str, Any], input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of one record."""
    custom_id = None
    try:
        id = record[source.columns.id] if source.columns.id in record else _number_as_id(number, input, source)
        custom_id = valid_id(id)
        row = _fields(record, source.columns.fields)
        parts = _parts(row, record, input, source)
        questions = source.questions or (record[source.columns.question],)
        if not isinstance(questions[0], str):
            raise InvalidJob(f"{source.columns.question}: a string is required")
        row_id = require_id(id, source.columns.id)
        fields = {name: value for name, value in row.items() if name in JOB_FIELDS}
        yield from rows_of_images(number, row_id, parts, questions, {**source.defaults, **fields})
    except VQAError as error:
        yield BadRow(number, custom_id, error)


def _fields(record: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return the record's fields, without empty ones. Raises InvalidJob."""
    found = {name: record[name] for name in columns}
    # pandas makes NaN of a gap
    return {name: _value(name, value) for name, value in found.items() if value not in (None, "") and value == value}


def _value(name: str, value: Any) -> Any:
    if name not in _JSON_COLUMNS or not isinstance(value, str):
        return value
    try:
        return json.loads(value.strip().lower() if name == "shrink_images" else value)
    except ValueError:
        raise InvalidJob(f"{name}: must be {_JSON_COLUMNS[name]}") from None


def _parts(row: Mapping[str, Any], record: Mapping[str, Any], input: Input, source: Source) -> list[dict[str, Any]]:
    fields = {name: value for name, value in row.items() if name not in JOB_FIELDS}
    if "video" in fields or "frames" in fields:
        return visual_parts(fields, partial(resolve_location, folder=input.folder))
    if source.columns.image not in record:
        raise InvalidJob("video: it is empty" if "video" in source.columns.fields else "frames: it is empty")
    return image_parts(_images(record[source.columns.image], input.folder), fields)


def _number_as_id(number: int, input: Input, source: Source) -> str:
    return str(number) if len(source.inputs) == 1 else f"{os.path.basename(input.name)}:{number}"


def _images(value: object, folder: str) -> list[str]:
    if not isinstance(value, list):
        return [_image(value, folder)]
    if not value:
        raise BadImage("the list of images is empty")
    return [_image(each, folder) for each in value]


def _image(value: object, folder: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return to_data_url(value)
    if isinstance(value, str):
        return resolve_location(value, folder)
    raise BadImage(f"an image is a path, a URL or bytes, not {type(value).__name__}")
