"""The strings inside of a JSON text, which are filtered without changing anything else of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: a string, and the colon after it if it is a property's name
_STRING = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonString:
    """A string of a JSON text."""

    #: where it is written, with its quotes
    start: int
    end: int
    value: str
    is_key: bool


def strings(text: str) -> Iterator[JsonString]:
    """Yield the strings of a valid JSON text, in order."""
    for found in _STRING.finditer(text):
        yield JsonString(*found.span(1), json.loads(found[1], strict=False), found[2] is not None)


def quoted(value: str) -> str:
    """Write a string as JSON, with escapes only where it needs them."""
    return json.dumps(value, ensure_ascii=False)
