"""JSON Lines inputs, OpenAI Batch and the short form; and the line reader that CSV shares with them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from producer.images.locations import resolve_location
from producer.inputs.compression import DAMAGE
from producer.inputs.files import Input
from producer.inputs.row import JOB_FIELDS, BadRow, Row, question_messages, require_id, valid_id
from producer.inputs.source import Source
from producer.inputs.visuals import PART_FIELDS, SOURCE_FIELDS, visual_parts
from producer.openai.chat_request import named_model, parse_request
from vqa.errors import InvalidJob, VQAError
from vqa.frozen_model import shown

#: in bytes; a longer line is skipped, not held in memory
MAX_LINE_BYTES = 64 * 2**20

#: fields of the short form that are not fields of a job
_SHORT_FIELDS = frozenset({"id", "question", "expected", *SOURCE_FIELDS, *PART_FIELDS})
_KNOWN_FIELDS = JOB_FIELDS | _SHORT_FIELDS

_BOM = b"\xef\xbb\xbf"

NOT_UTF8 = "not UTF-8; save the file as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"

#: from a line's object and the folder of its input to the fields of a job
_Parse = Callable[[Mapping[str, Any], str], dict[str, Any]]


def read_openai(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of an OpenAI Batch file."""
    return _read(input, source, "custom_id", parse_request)


def read_short(input: Input, source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a file in the short form."""
    return _read(input, source, "id", _parse_short)


def _read(input: Input, source: Source, id_name: str, parse: _Parse) -> Iterator[Row | BadRow]:
    with input.open() as stream:
        for number, line in numbered_lines(stream):
            if isinstance(line, InvalidJob):
                yield BadRow(number, None, line)
            elif not line.isspace():
                yield _row(number, line, input.folder, source.defaults, id_name, parse)


def _row(number: int, line: str, folder: str, defaults: Mapping[str, Any], id_name: str, parse: _Parse) -> Row | BadRow:
    custom_id = None
    try:
        document = json_object(line)
        custom_id = valid_id(document.get(id_name))
        fields, named = {**defaults, **parse(document, folder)}, None
        if id_name == "custom_id":
            named = named_model(document)
        return Row(number, require_id(document.get(id_name), id_name), fields, named)
    except VQAError as error:
        return BadRow(number, custom_id, error)


def _parse_short(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the fields of a job. Raises InvalidJob or BadImage."""
    if not _KNOWN_FIELDS.issuperset(row):
        raise InvalidJob(f"{shown(min(row.keys() - _KNOWN_FIELDS))}: unknown field")
    question = row.get("question")
    if not isinstance(question, str):
        raise InvalidJob("question: a string is required")
    parts = visual_parts(row, partial(resolve_location, folder=folder))
    fields = {name: value for name, value in row.items() if name not in _SHORT_FIELDS}
    return {**fields, "messages": question_messages(parts, question)}


def numbered_lines(
    stream: io.BufferedReader, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, str | InvalidJob]]:
    """Yield the number (from 1) and the text of each line, empty ones included, or why the line cannot be read.

    The text includes the newline. If the stream is truncated or damaged, the last item says so.
    """
    number = 0
    try:
        while line := stream.readline(max_bytes + 1):
            number += 1
            if len(line) > max_bytes and not line.endswith(b"\n"):
                _skip_line(stream)
                yield number, InvalidJob(f"the line is longer than {max_bytes:,} bytes")
                continue
            yield number, _decode(line.removeprefix(_BOM) if number == 1 else line)
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        yield number + 1, InvalidJob(f"cannot read the rest of the file, it is truncated or damaged: {reason}")


def _decode(line: bytes) -> str | InvalidJob:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return InvalidJob(NOT_UTF8)


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
        pass


def json_object(line: str) -> dict[str, Any]:
    """Parse a line that holds a JSON object. Raises InvalidJob."""
    try:
        document = _DECODER.decode(line)
    except (ValueError, RecursionError):
        raise InvalidJob("not JSON") from None
    if not isinstance(document, dict):
        raise InvalidJob(f"not a JSON object but {type(document).__name__}")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# Python's json accepts NaN and Infinity, which are not JSON
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
