"""The rows of a source, whatever its form, each checked as the job that it will become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from producer.inputs.csv_files import read_csv
from producer.inputs.files import Form, Input
from producer.inputs.folders import read_images
from producer.inputs.jsonl import read_openai, read_short
from producer.inputs.row import BadRow, Row, image_sources
from producer.inputs.source import Source
from producer.inputs.tables import read_parquet
from vqa.errors import InvalidJob, VQAError
from vqa.jobs.job import MOST_IMAGES
from vqa.jobs.message import Detail, TextPart

#: stands for any image in the check of a row
_PLACEHOLDER_IMAGE = "sha256:" + "0" * 64

#: fields of an image that says nothing more
_PLAIN_IMAGE = {"type", "image"}

_READERS: Mapping[Form, Callable[[Input, Source], Iterator[Row | BadRow]]] = {
    "openai": read_openai,
    "short": read_short,
    "csv": read_csv,
    "parquet": read_parquet,
}


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows lazily in input order, with one file open at a time and without reading images.

    Every Row becomes a valid job once its images are read. Raises SettingsError if an input cannot be read at all; if
    it breaks off, the last row is a BadRow.
    """
    validator = _Validator(source.detail)
    if source.form == "images":
        yield from map(validator.validate, read_images(source))
        return
    for input in source.inputs:
        for row in map(validator.validate, _READERS[source.form](input, source)):
            if isinstance(row, BadRow) and len(source.inputs) > 1:
                # name the file, because line numbers restart in each
                yield replace(row, error=type(row.error)(f"{input.name}: {row.error}"))
            else:
                yield row


class _Validator:
    """Turns rows into BadRows whose custom_id is a duplicate or whose job would be invalid."""

    def __init__(self, detail: Detail | None) -> None:
        self._detail = detail
        # 64-bit hashes only: the input may be larger than memory
        self._ids: set[int] = set()
        #: the last fields, without messages, that were part of a valid job
        self._valid_fields: Mapping[str, Any] | None = None

    def validate(self, row: Row | BadRow) -> Row | BadRow:
        if row.custom_id is not None:
            hashed = hash(row.custom_id)
            if hashed in self._ids:
                return BadRow(row.number, row.custom_id, InvalidJob("an earlier row has the same custom_id"))
            self._ids.add(hashed)
        if isinstance(row, Row):
            row = _with_detail(row, self._detail)
            try:
                self._check(row)
            except VQAError as error:
                return BadRow(row.number, row.custom_id, error)
        return row

    def _check(self, row: Row) -> None:
        """Raise InvalidJob if the row's job would be invalid."""
        fields = {name: value for name, value in row.fields.items() if name != "messages"}
        # building a whole job takes 20 to 30 us, checking only the messages 3 us
        if fields != self._valid_fields or not _are_valid(row.fields["messages"]):
            row.job("row", dict.fromkeys(image_sources(row), _PLACEHOLDER_IMAGE))
            self._valid_fields = fields


def _with_detail(row: Row, detail: Detail | None) -> Row:
    """Return the row with this detail for images and videos that do not say any."""
    if detail is None or not image_sources(row):
        return row
    messages = [
        {
            **each,
            "content": [part if part["type"] == "text" else {"detail": detail, **part} for part in each["content"]],
        }
        for each in row.fields["messages"]
    ]
    return replace(row, fields={**row.fields, "messages": messages})


def _are_valid(messages: list[Mapping[str, Any]]) -> bool:
    """Return whether a job accepts the messages, whose roles and part types are known to be valid."""
    images = 0
    for message in messages:
        if not message["content"]:
            return False
        for part in message["content"]:
            if part.keys() == _PLAIN_IMAGE:
                images += 1
            elif not _is_text(part):
                return False
    return bool(messages) and images <= MOST_IMAGES


def _is_text(part: Mapping[str, Any]) -> bool:
    try:
        TextPart.model_validate(part)
    except ValidationError:
        return False
    return True
