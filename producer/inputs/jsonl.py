"""Forms with one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producer.inputs.input import Input
from producer.inputs.lines import json_object, numbered_lines
from producer.inputs.row import BadRow, Row, no_id, printable
from producer.inputs.short import short_fields
from producer.inputs.source import Source
from producer.openai.chat_request import openai_fields
from vqa.errors import InvalidJob, VQAError

_Fields = Callable[[Mapping[str, Any], str], dict[str, Any]]


def read_openai(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Rows of an OpenAI Batch file."""
    return _read(input, source, "custom_id", openai_fields)


def read_short(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Rows in the short form."""
    return _read(input, source, "id", short_fields)


def _read(input: Input, source: Source, id_name: str, fields_of: _Fields) -> Iterator[Row | BadRow]:
    with input.open() as stream:
        for number, line in numbered_lines(stream):
            if isinstance(line, InvalidJob):
                yield BadRow(number, None, line)
            elif not line.isspace():
                yield _row(number, line, input.folder, source.defaults, id_name, fields_of)


def _row(
    number: int, line: str, folder: str, defaults: Mapping[str, Any], id_name: str, fields_of: _Fields
) -> Row | BadRow:
    custom_id = None
    try:
        document = json_object(line)
        if (custom_id := printable(document.get(id_name))) is None:
            raise no_id(id_name)
        return Row(number, custom_id, {**defaults, **fields_of(document, folder)})
    except VQAError as error:
        return BadRow(number, custom_id, error)
