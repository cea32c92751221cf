"""Forms with one JSON object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producer.images.locations import from_text
from producer.inputs.files import DAMAGE, Input
from producer.inputs.row import JOB_FIELDS, BadRow, Row, no_id, one_question, printable
from producer.inputs.source import Source
from producer.openai.chat_request import openai_fields
from vqa.errors import InvalidJob, VQAError
from vqa.frozen_model import shown

_OWN = frozenset({"id", "image", "images", "question", "expected"})
_KNOWN = JOB_FIELDS | _OWN


def short_fields(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A job's fields. Raises InvalidJob or BadImage."""
    if not _KNOWN.issuperset(row):
        raise InvalidJob(f"{shown(min(row.keys() - _KNOWN))}: no such field")
    question = row.get("question")
    if not isinstance(question, str):
        raise InvalidJob("question: a row needs one, a string")
    sources = [from_text(text, folder) for text in _images(row)]
    fields = {name: value for name, value in row.items() if name not in _OWN}
    return {**fields, "messages": one_question(sources, question)}


def _images(row: Mapping[str, Any]) -> list[str]:
    if "images" not in row:
        if not isinstance(image := row.get("image"), str):
            raise InvalidJob("image: a row needs one, a string")
        return [image]
    images = row["images"]
    if "image" in row:
        raise InvalidJob("image and images: a row has one of them")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise InvalidJob("images: a list of strings, at least one")
    return images


#: bytes; a longer line is not held in memory
LONGEST_LINE = 64 * 2**20

_BOM = b"\xef\xbb\xbf"


def numbered_lines(stream: io.BufferedReader, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str | InvalidJob]]:
    """The stream's lines with their ends, from 1, or why one cannot be read; empty ones are among them.

    Where the stream itself cannot be read on, this is told as one more line, the last.
    """
    number = 0
    try:
        while line := stream.readline(longest + 1):
            number += 1
            if len(line) > longest and not line.endswith(b"\n"):
                _skip_line(stream)
                yield number, InvalidJob(f"a line has at most {longest:,} bytes")
                continue
            yield number, _text(line.removeprefix(_BOM) if number == 1 else line)
    except DAMAGE as error:
        yield number + 1, InvalidJob(f"the rest of the file cannot be read, it is torn or damaged: {_reason(error)}")


def json_object(line: str) -> dict[str, Any]:
    """The object that the line is. Raises InvalidJob."""
    try:
        found = _DECODER.decode(line)
    except (ValueError, RecursionError):
        raise InvalidJob("not JSON") from None
    if not isinstance(found, dict):
        raise InvalidJob(f"not a JSON object but {type(found).__name__}")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# NaN and Infinity are Python's, not JSON's
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _text(line: bytes) -> str | InvalidJob:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return InvalidJob("not UTF-8")


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
        pass


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__


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
