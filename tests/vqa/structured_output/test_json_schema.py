from __future__ import annotations

import calendar
import datetime
import json
from enum import Enum
from typing import Any, Literal

import jsonschema
import pydantic
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vqa import InvalidJob, Job
from vqa.structured_output.grammar import matcher, short_text
from vqa.structured_output.json_schema import Schema, meant

Bound = int | float


def job(schema: Schema, strict: bool | None = None) -> Job:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}
    return Job(messages=[{"role": "user", "content": "x"}], response_format=form)


def allows(asked: Job, text: str) -> bool:
    """Whether the answer can be generated, byte by byte."""
    from llguidance import LLTokenizer

    assert asked.grammar is not None
    follower = matcher(LLTokenizer("byte"), asked.grammar)
    tokens = list(text.encode())
    return follower.try_consume_tokens(tokens) == len(tokens) and bool(follower.is_accepting())


def takes(schema: Schema, value: Any, strict: bool | None = None) -> bool:
    return allows(job(schema, strict), json.dumps(value))


@pytest.mark.parametrize("schema", [{"exclusiveMinimum": 0, "maximum": 0.5}, {"exclusiveMinimum": 1, "maximum": 1.5}])
def test_a_number_over_a_bound_is_never_the_bound(schema: Schema) -> None:
    schema = {"type": "number", **schema}
    low = schema["exclusiveMinimum"]

    assert not takes(schema, low)
    assert not takes(schema, low - 0.25)
    assert takes(schema, low + 0.25)
    assert takes(schema, low + 0.001)
    assert takes(schema, low + 0.5)
    assert not takes(schema, low + 0.75)


bounds = st.sampled_from([0, 1, -1, 10, 0.5, -0.5, 0.001, -0.001, 0.1, 10.5, -1.5, 1e6, 1e6 + 0.25])


@given(
    low=bounds,
    high=bounds,
    low_name=st.sampled_from(["minimum", "exclusiveMinimum"]),
    high_name=st.sampled_from(["maximum", "exclusiveMaximum"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=200)
def test_a_number_can_be_generated_if_and_only_if_it_lies_within_the_bounds(
    low: Bound, high: Bound, low_name: str, high_name: str, share: float
) -> None:
    assume(low < high)
    schema = {"type": "number", low_name: low, high_name: high}
    asked = job(schema)
    value = low + share * (high - low)
    assume(0 < share < 1 or value in (low, high))

    spellings = {json.dumps(value), json.dumps(int(value) if value == int(value) else value)}
    possible = [text for text in spellings if allows(asked, text)]
    assert bool(possible) == jsonschema.Draft202012Validator(schema).is_valid(value)
    assert all(asked.parse(text) == value for text in possible)


@pytest.mark.parametrize("number", [True, False])
def test_exclusive_bounds_of_openapi_are_booleans(number: bool) -> None:
    schema = {"type": "integer", "minimum": 0, "exclusiveMinimum": number}

    assert takes(schema, 0) is not number
    assert takes(schema, 1)


ORDER: Schema = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a"],
}


def test_an_object_that_names_its_properties_has_no_others() -> None:
    assert takes(ORDER, {"a": 1})
    assert takes(ORDER, {"a": 1, "b": 2})
    assert not takes(ORDER, {"a": 1, "invented": 2})


def test_an_object_that_allows_others_has_them() -> None:
    assert takes({**ORDER, "additionalProperties": True}, {"a": 1, "other": "x"})
    assert takes({"type": "object"}, {"other": "x"})
    assert takes({"type": "object", "properties": {"a": {}}, "required": ["b"]}, {"b": 1})


def test_parts_of_an_object_do_not_forbid_each_other() -> None:
    parts = {"allOf": [ORDER, {"type": "object", "properties": {"c": {"type": "null"}}, "required": ["c"]}]}

    assert takes(parts, {"a": 1, "c": None})


def test_a_strict_object_is_closed_and_complete_at_any_depth() -> None:
    schema = {"type": "object", "properties": {"list": {"type": "array", "items": {"$ref": "#/$defs/order"}}}}
    schema["$defs"] = {"order": ORDER}

    assert takes(schema, {"list": [{"a": 1, "b": 2}]}, strict=True)
    assert not takes(schema, {"list": [{"a": 1}]}, strict=True)
    assert not takes(schema, {}, strict=True)
    assert takes(schema, {"list": [{"a": 1}]})
    with pytest.raises(InvalidJob, match="additionalProperties must be false or left out"):
        job({**ORDER, "additionalProperties": True}, strict=True)


class Colour(Enum):
    RED = "red"


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    colour: Colour | None = None
    sold: datetime.date


class Receipt(pydantic.BaseModel):
    items: list[Item] = pydantic.Field(max_length=2)
    kind: Literal["shop", "fuel"]
    total: float = pydantic.Field(gt=0, lt=0.5)
    key: pydantic.SecretStr | None = None
    file: bytes = b""


@pytest.mark.parametrize("strict", [True, False, None])
def test_the_schema_of_a_pydantic_model_gives_what_the_model_reads(strict: bool | None) -> None:
    asked = job(Receipt.model_json_schema(), strict)
    assert asked.grammar is not None

    Receipt.model_validate(asked.parse(short_text(asked.grammar, 1000)))
    item = {"name": "tea", "colour": "red", "sold": "2024-02-29"}
    whole = {"items": [item], "kind": "shop", "total": 0.25, "key": None, "file": ""}
    assert allows(asked, json.dumps(whole))
    assert not allows(asked, json.dumps({**whole, "invented": 1}))


@pytest.mark.parametrize("name", ["int32", "int64", "float", "double", "password", "binary", "byte", "file-path"])
def test_formats_that_say_nothing_about_the_text_are_ignored(name: str) -> None:
    assert takes({"type": "string", "format": name}, "anything")


def test_unique_items_must_not_be_asked_for_but_may_be_denied() -> None:
    assert takes({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}, [1, 1])


@given(year=st.integers(0, 9999), month=st.integers(0, 13), day=st.integers(0, 32))
@settings(deadline=None)
def test_a_date_is_one_of_the_calendar(year: int, month: int, day: int) -> None:
    real = year > 0 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
    text = f"{year:04}-{month:02}-{day:02}"

    assert takes({"type": "string", "format": "date"}, text) == real
    assert takes({"type": "string", "format": "date-time"}, f"{text}T23:59:59.5Z") == real


@pytest.mark.parametrize("year", [1900, 2000, 2023, 2024, 2100, 400, 4])
def test_february_has_29_days_in_leap_years_only(year: int) -> None:
    assert takes({"type": "string", "format": "date"}, f"{year:04}-02-29") == calendar.isleap(year)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "nullable": True},
        {"enum": ["x"], "nullable": True},
        {"allOf": [{"$ref": "#/$defs/text"}], "nullable": True, "$defs": {"text": {"type": "string"}}},
    ],
)
def test_a_nullable_value_may_be_null(schema: Schema) -> None:
    assert takes(schema, None)
    assert takes(schema, "x")
    assert not takes({**schema, "nullable": False}, None)


def test_the_lists_of_earlier_drafts_are_understood() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}],
        "additionalItems": False,
    }

    assert takes(schema, [1])
    assert not takes(schema, [1, 2])


def test_keywords_that_have_no_effect_where_they_stand_change_nothing() -> None:
    # additionalItems belongs to `items` that are a list; $schema names the dialect of an inner schema
    inner = {"type": "integer", "$schema": "https://example.com/dialect"}
    schema = {"type": "array", "prefixItems": [inner], "minItems": 1, "additionalItems": False}

    assert takes(schema, [1, "x"])
    assert not takes(schema, ["x"])


def test_what_stands_in_values_is_no_schema() -> None:
    value = {"properties": {"a": 1}, "nullable": True, "format": "date"}

    assert meant({"const": value, "enum": [value]}, strict=True) == {"const": value, "enum": [value]}
    assert takes({"const": value}, value)


@pytest.mark.parametrize(
    ("schema", "text", "keyword"),
    [
        # the same name twice: one property when it is read
        ({"type": "object", "minProperties": 2}, '{"a": 1, "a": 2}', "minProperties"),
        # classes of POSIX, which JSON Schema's patterns (ECMAScript's) do not have
        ({"type": "string", "pattern": "^[[:alpha:]]$"}, '"b"', "pattern"),
        # bounds that come together only when the grammar is made
        ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, "0", "exclusiveMinimum"),
    ],
)
def test_an_answer_that_the_grammar_lets_pass_is_checked_against_the_schema(
    schema: Schema, text: str, keyword: str
) -> None:
    asked = job(schema)
    assert allows(asked, text)

    with pytest.raises(InvalidJob, match=f"an answer was generated that breaks its {keyword}"):
        asked.parse(text)


@pytest.mark.parametrize("schema", [{"type": "object", "required": ["secret", "secret"]}, {"title": 5}])
def test_what_is_no_schema_is_refused_when_the_job_is_made(schema: Schema) -> None:
    with pytest.raises(InvalidJob, match="it is not a valid JSON schema: see "):
        job(schema)


def test_a_pattern_that_takes_ages_elsewhere_is_no_danger() -> None:
    asked = job({"type": "string", "pattern": "^(a+)+$"})

    assert asked.parse(json.dumps("a" * 40)) == "a" * 40
    with pytest.raises(InvalidJob, match="breaks its pattern"):
        asked.parse(json.dumps("a" * 40 + "b"))


def test_a_row_of_200_optional_properties_is_taken() -> None:
    properties = {f"p{n}": {"type": "string", "maxLength": 20} for n in range(200)}

    assert takes({"type": "object", "properties": properties}, {"p7": "x", "p199": "y"})
