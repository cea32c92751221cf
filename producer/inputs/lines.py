"""Lines of a file or a pipe, numbered; what cannot be a line is told in its place, and the next ones are read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from producer.inputs.files import DAMAGE
from vqa.errors import InvalidJob

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
