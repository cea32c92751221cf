"""The filter for structured answers, which stay valid in their format, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable

from vqa.errors import VQAError
from vqa.structured_output.response_format import ChoiceFormat, JsonSchemaFormat, ResponseFormat, TextFormat
from workers.filter.json_text import quoted, strings
from workers.filter.word_filter import Filtered, WordFilter


def filter_structured(words: WordFilter, structure: ResponseFormat, text: str) -> Filtered:
    """Mask words in the strings of JSON, and nothing else of it.

    Refused is what cannot be masked: a choice, a property's name that the schema does not give, a value that the schema
    does not allow with the mask in it.
    """
    if isinstance(structure, TextFormat):
        return words.apply(text)
    if isinstance(structure, ChoiceFormat):
        filtered = words.apply(text)
        return _refused(filtered.categories) if filtered.text != text else filtered
    return _filter_json(words, structure, text)


def _filter_json(words: WordFilter, structure: ResponseFormat, text: str) -> Filtered:
    categories: set[str] = set()
    pieces: list[str] = []
    written = refused = 0
    is_known_name = _known_names(structure)
    for string in strings(text):
        filtered = words.apply(string.value)
        if not filtered.categories or (string.is_key and is_known_name(string.value)):
            continue
        categories.update(filtered.categories)
        is_masked = filtered.text != string.value
        refused |= filtered.refused_at is not None or (is_masked and string.is_key)
        if is_masked:
            pieces += [text[written : string.start], quoted(filtered.text)]
            written = string.end
    result = "".join([*pieces, text[written:]])
    if refused or (pieces and not _is_valid(structure, result)):
        return _refused(categories)
    return Filtered(result, tuple(sorted(categories)))


def _known_names(structure: ResponseFormat) -> Callable[[str], bool]:
    """Return a function that says whether the schema, which is the client's own text, has a string."""
    if not isinstance(structure, JsonSchemaFormat):
        return lambda name: False
    schema = json.dumps(structure.json_schema.json_schema)
    return lambda name: json.dumps(name) in schema


def _is_valid(structure: ResponseFormat, text: str) -> bool:
    try:
        structure.parse(text)
    except VQAError:
        return False
    return True


def _refused(categories: set[str] | tuple[str, ...]) -> Filtered:
    return Filtered("", tuple(sorted(categories)), 0)
