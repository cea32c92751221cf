"""Structured answers stay in their format, or are refused."""

import json
from typing import Any

import pytest

from tests.workers.filter.making import words
from vqa.structured_output.response_format import ChoiceFormat, JsonObjectFormat, JsonSchemaFormat, TextFormat
from workers.filter.structured import filter_structured

FILTER = words({"bad": "a", "坏词": "a", "brand": "b", "worst": "c"}, b="flag", c="refuse")


def schema(**properties: Any) -> JsonSchemaFormat:
    named = {"name": "it", "schema": {"type": "object", "properties": properties, "required": list(properties)}}
    return JsonSchemaFormat.model_validate({"type": "json_schema", "json_schema": named})


TEXT = schema(bad={"type": "string"}, more={"type": "array", "items": {"type": "string"}})


@pytest.mark.parametrize(
    ("structure", "text", "expected", "categories"),
    [
        pytest.param(
            TEXT,
            '{"bad":  "a bad\\nb\\u0061d day", "more": ["brand", "\\u574f\\u8bcd \\"x\\"", ""]}',
            '{"bad":  "a ███\\n███ day", "more": ["brand", "██ \\"x\\""' + ', ""]}',
            ("a", "b"),
            id="values-alone",
        ),
        pytest.param(TEXT, '{"bad": "fine", "more": []}', '{"bad": "fine", "more": []}', (), id="the-schemas-own-name"),
        pytest.param(TEXT, '{"bad": "worst", "more": []}', "", ("c",), id="refused"),
        pytest.param(JsonObjectFormat(), '{"bad": 1}', "", ("a",), id="a-name-of-the-models"),
        pytest.param(JsonObjectFormat(), '{"brand": 1}', '{"brand": 1}', ("b",), id="a-flagged-name"),
        pytest.param(schema(x={"enum": ["bad", "good"]}), '{"x":"bad"}', "", ("a",), id="enum"),
        pytest.param(schema(x={"type": "string", "pattern": "^b"}), '{"x":"bad"}', "", ("a",), id="pattern"),
        pytest.param(ChoiceFormat(choices=("bad", "good")), "bad", "", ("a",), id="choice"),
        pytest.param(ChoiceFormat(choices=("brand", "good")), "brand", "brand", ("b",), id="flagged-choice"),
        pytest.param(TextFormat(), "bad", "███", ("a",), id="text"),
    ],
)
def test_strings_are_masked_and_all_else_stays_or_is_refused(
    structure: Any, text: str, expected: str, categories: tuple[str, ...]
) -> None:
    filtered = filter_structured(FILTER, structure, text)
    assert (filtered.text, filtered.categories) == (expected, categories)
    assert (filtered.refused_at is not None) == (expected == "")
    if expected and not isinstance(structure, ChoiceFormat | TextFormat):
        assert json.loads(expected)
