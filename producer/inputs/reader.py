"""Rows from a source, whatever its form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from producer.inputs.files import Form, Input
from producer.inputs.folders import read_images
from producer.inputs.jsonl import read_openai, read_short
from producer.inputs.row import BadRow, Row, image_sources
from producer.inputs.source import Source
from producer.inputs.tables import read_csv, read_parquet
from vqa.errors import InvalidJob, VQAError
from vqa.job import MOST_IMAGES, TextPart

# stands for any image
_SOME_IMAGE = "sha256:" + "0" * 64


class Checker:
    """Checks one row after another, and most of it once: rows of one submission differ in their messages alone.

    A whole job costs 20 to 30 us; the rest of a row whose other fields are those of the row before, 3 us.
    """

    def __init__(self) -> None:
        self._good: Mapping[str, Any] | None = None

    def check(self, row: Row) -> None:
        """Raises InvalidJob where the row's job would."""
        others = {name: value for name, value in row.fields.items() if name != "messages"}
        if others == self._good and _are_messages(row.fields["messages"]):
            return
        row.job("row", dict.fromkeys(image_sources(row), _SOME_IMAGE))
        self._good = others


def _are_messages(messages: list[Mapping[str, Any]]) -> bool:
    """Whether the messages, of roles and parts that are known, are a job's; where not, the job says what is wrong."""
    shown = 0
    for message in messages:
        content = message["content"]
        if not content:
            return False
        for part in content:
            if part["type"] == "image":
                shown += 1
            elif not _is_text(part):
                return False
    return bool(messages) and shown <= MOST_IMAGES


def _is_text(part: Mapping[str, Any]) -> bool:
    try:
        TextPart.model_validate(part)
    except ValidationError:
        return False
    return True


_READERS: Mapping[Form, Callable[[Input, Source], Iterator[Row | BadRow]]] = {
    "openai": read_openai,
    "short": read_short,
    "csv": read_csv,
    "parquet": read_parquet,
}


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """The rows, in the input's order, as they are asked for; one file is open at a time, and no image.

    Each would be a job once its images are read. Raises SettingsError where an input cannot be read at all; one that
    breaks off is a BadRow there.
    """
    judge = _Judge()
    if source.form == "images":
        yield from map(judge.judged, read_images(source))
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
