from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schemas import WORDS, Schema, schemas
from vqa import AnswerTooLong, InvalidJob, Job
from vqa.structured_output.grammar import refusal, short_text

MESSAGES = [{"role": "user", "content": "x"}]


def job(format: Any, **fields: Any) -> Job:
    return Job(messages=MESSAGES, response_format=format, **fields)


def by_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def choice(*choices: str) -> dict[str, Any]:
    return {"type": "choice", "choices": list(choices)}


def short(asked: Job) -> str:
    assert asked.grammar is not None
    return short_text(asked.grammar, 10_000)


@given(schema=schemas)
@settings(deadline=None, max_examples=200)
def test_a_text_by_the_grammar_of_a_schema_is_valid_by_the_schema(schema: Schema) -> None:
    asked = job(by_schema(schema))
    value = asked.parse(short(asked))

    jsonschema.validate(value, schema)
    assert json.loads(json.dumps(value)) == value


@given(choices=st.lists(st.text(min_size=1, max_size=8).map(str.strip).filter(bool), min_size=1, unique=True))
@settings(deadline=None)
def test_a_text_by_the_grammar_of_choices_is_one_of_them(choices: list[str]) -> None:
    asked = job(choice(*choices))

    assert asked.parse(short(asked)) in choices


@pytest.mark.parametrize("word", [word for word in WORDS if word.strip() == word != ""])
def test_a_choice_is_taken_to_the_letter(word: str) -> None:
    assert short(job(choice(word))) == word


def test_properties_come_in_the_order_of_the_schema_and_on_one_line() -> None:
    fields = {name: {"type": "boolean"} for name in ("z", "a", "m")}

    text = short(job(by_schema({"type": "object", "properties": fields, "required": list(fields)})))

    assert list(json.loads(text)) == ["z", "a", "m"]
    assert text == json.dumps(json.loads(text))


@pytest.mark.parametrize(
    "format",
    [
        {"type": "text"},
        {"type": "json_object"},
        choice("yes", "no"),
        by_schema({"const": None, "default": None}, strict=True, description="what it is for"),
        by_schema({}),
    ],
)
def test_a_format_travels_as_it_was_written_with_the_newest_version(format: dict[str, Any]) -> None:
    asked = job(format)
    written = json.loads(asked.to_json())

    assert written["response_format"] == format
    assert written["version"] == asked.version == 3
    assert Job.from_json(asked.to_json()) == asked


def test_a_job_without_a_format_says_nothing_of_one() -> None:
    plain = Job(messages=MESSAGES)

    assert plain.grammar is None
    assert plain.parse("{}") is None
    assert "response_format" not in json.loads(plain.to_json())
    assert job({"type": "text"}).grammar is None


def nested(levels: int) -> Schema:
    schema: Schema = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


SECRET = "secret"


@pytest.mark.parametrize(
    ("format", "why"),
    [
        (by_schema({"type": SECRET}), "response_format.json_schema: it has a type that is none of JSON's"),
        (by_schema({"format": SECRET, "type": "string"}), "it has an unknown format"),
        (by_schema({"pattern": f"({SECRET}"}), "it has a pattern that is no regular expression"),
        (
            by_schema({"pattern": f"(?={SECRET})"}),
            "it has a pattern with look-ahead or look-behind, which is not supported",
        ),
        (by_schema({"$ref": f"http://{SECRET}/x"}), "points outside of it; external schemas are not fetched"),
        (by_schema({"$ref": f"file:///{SECRET}"}), "points outside of it; external schemas are not fetched"),
        (by_schema({"$ref": f"#/$defs/{SECRET}"}), "the target of a $ref does not exist"),
        (by_schema({"$ref": "#"}), "no value is valid by it"),
        (by_schema({"enum": []}), "no value is valid by it"),
        (
            by_schema({"type": "object", "properties": {SECRET: {"$ref": "#"}}, "required": [SECRET]}),
            "refers to itself without end",
        ),
        (
            by_schema({"type": "object", "properties": {f"{n}": {} for n in range(1000)}}),
            "an object has 1,000 optional properties; at most 200 are allowed",
        ),
        (by_schema({"anyOf": [{"required": [f"{n}"]} for n in range(2500)]}), "it is too large"),
        (
            by_schema({"allOf": [{"pattern": f"a.{{{n}}}b"} for n in range(20)]}),
            "it has a pattern, or the bounds of a number, that are too complex",
        ),
        (by_schema({"type": "string", "const": 1}), "no value is valid by it"),
        (by_schema({"uniqueItems": True, "title": SECRET}), "not supported: uniqueItems"),
        (by_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf is not supported if"),
        (by_schema({"x-guidance": {"lenient": True}, "uniqueItems": True}), "not supported: uniqueItems"),
        (by_schema({"properties": {SECRET: 5}}), "it cannot be compiled"),
        (by_schema({"properties": {"\ud800": {}}}), "holds an invalid character"),
        (by_schema(nested(200)), "nested too deep"),
        (by_schema(nested(5000)), "nested too deep"),
        (by_schema({"const": {1, 2}}), "the schema is not JSON"),
        (by_schema({"const": float("nan")}), "the schema is not JSON"),
        (by_schema({"description": "x" * 65_536}), "more than 65,536 bytes"),
        (by_schema(True), "dictionary"),
        (by_schema({}, name=f"{SECRET} "), r"json_schema.name: String should match"),
        (by_schema({}, misspelt=1), "json_schema.misspelt: Extra inputs are not permitted"),
        ({"type": "json_schema"}, "json_schema: Field required"),
        ({"type": "grammar"}, "response_format: Input tag"),
        ("json_object", "response_format: Input should be"),
        (choice(), "choices: Tuple should have at least 1 item"),
        (choice("a", "a"), "response_format.choice: a choice is given twice"),
        (choice(""), "choices.0: String should have at least 1 character"),
        (choice("a "), "must not begin or end with a space"),
        (choice(*map(str, range(1001))), "at most 1000 items"),
        (choice(*("x" * 4000 + str(n) for n in range(20))), "more than 65,536 bytes"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_at_the_job_in_one_line_without_the_users_words(
    format: Any, why: str
) -> None:
    with pytest.raises(InvalidJob) as refused:
        job(format)

    assert why in str(refused.value)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_structured_answer_has_no_stop_strings() -> None:
    with pytest.raises(InvalidJob, match="stop strings cannot be combined"):
        job({"type": "json_object"}, stop=["x"])
    assert job({"type": "text"}, stop=["x"]).stop == ("x",)


@pytest.mark.parametrize("text", ["1" * 5000, "-1e999", "[" * 300 + "]" * 300, '{"a": 1', ""])
def test_what_no_reader_takes_is_no_answer(text: str) -> None:
    with pytest.raises(AnswerTooLong):
        job(by_schema({})).parse(text)


def test_a_part_of_a_choice_is_no_answer() -> None:
    with pytest.raises(AnswerTooLong, match="none of the choices"):
        job(choice("yes", "no")).parse("ye")


@pytest.mark.parametrize("asks", [True, False, None], ids=["asked", "not-asked", "null"])
def test_a_choice_is_scored_where_the_job_says_so(asks: bool) -> None:
    asked = job({**choice("yes", "no"), "probabilities": asks})

    assert asked.scored_choices == (("yes", "no") if asks else ())
    # workers of earlier releases refuse a field that they do not know
    assert (b"probabilities" in asked.to_json()) == bool(asks)
    assert Job.from_json(asked.to_json()) == asked


def test_a_schema_is_compiled_once_however_many_jobs_have_it() -> None:
    properties = {f"p{n}": {"type": "string", "maxLength": 50} for n in range(1200)}
    large = by_schema({"type": "object", "properties": properties}, strict=True)
    job(large)
    before = time.process_time()
    for _ in range(20):
        job(large)

    # compiling takes a tenth of a second and more
    assert time.process_time() - before < 1.0


def test_what_is_changed_in_the_callers_schema_later_changes_no_job() -> None:
    schema: Schema = {"type": "object", "properties": {}}
    asked = job(by_schema(schema))
    before = asked.to_json()
    schema["properties"]["a"] = 5

    assert asked.to_json() == before


@pytest.mark.parametrize(
    "schema",
    [
        # each of them is small and stands for much
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "string", "pattern": "(.*a.{20}b.*){20}"},
        {"type": "array", "items": {"enum": [f"{n}" for n in range(5000)]}, "minItems": 100_000},
        {"allOf": [{"anyOf": [{"properties": {f"p{n}{m}": {}}} for n in range(20)]} for m in range(12)]},
    ],
)
def test_no_schema_takes_long_to_be_taken_or_refused(schema: Schema) -> None:
    before = time.process_time()
    with contextlib.suppress(InvalidJob):
        job(by_schema(schema))

    assert time.process_time() - before < 10


def test_a_grammar_that_is_none_is_refused() -> None:
    assert refusal("start: nowhere") == "it cannot be compiled"


def test_the_compiler_is_imported_by_nobody_who_needs_none() -> None:
    program = (
        "import sys\n"
        "from vqa import Job\n"
        "Job(messages=[{'role': 'user', 'content': 'x'}]).to_json()\n"
        "sys.exit('llguidance' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
