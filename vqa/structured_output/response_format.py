"""Response formats: those of OpenAI's API, and a list of choices.

A structured answer is generated under a grammar (llguidance), so that it has the format unless it is truncated. The
grammar is compiled and tested when the job is created.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import from_json

from vqa.errors import AnswerTooLong, InvalidJob
from vqa.frozen_model import Frozen
from vqa.structured_output.grammar import json_grammar, one_of, refusal
from vqa.structured_output.json_schema import meant
from vqa.structured_output.validation import not_a_schema, violated

#: bytes of a schema in JSON, or of all choices together
MOST_BYTES = 64 * 1024

MOST_CHOICES = 1000


class TextFormat(Frozen):
    """Any text, as without a response format."""

    type: Literal["text"] = "text"

    def grammar(self) -> str | None:
        return None

    def parse(self, text: str) -> Any:
        return None


class _Json(Frozen):
    def parse(self, text: str) -> Any:
        """Return the value of the JSON in `text`. Raises AnswerTooLong for too long numbers and too deep lists."""
        try:
            value = from_json(text)
            # a number that is too large becomes an infinity, which cannot be written as JSON
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise AnswerTooLong(
                "the structured answer holds a number that is too long, or lists that are nested too deep"
            ) from None
        return value


class JsonObjectFormat(_Json):
    """Any JSON object."""

    type: Literal["json_object"] = "json_object"

    def grammar(self) -> str:
        return _json_grammar('{"type":"object"}')


class NamedSchema(Frozen):
    """A JSON schema with a name and a description, which have no effect."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(default=None, max_length=4096)
    #: the answer has the properties in the order of the schema
    json_schema: dict[str, Any] = Field(alias="schema")
    #: whether every object is closed and has all of its properties, as OpenAI's strict schemas do
    strict: StrictBool | None = None

    @field_validator("json_schema")
    @classmethod
    def _is_json(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            written = _written(schema)
        except (ValueError, TypeError, RecursionError):
            raise ValueError("the schema is not JSON, or is nested too deep") from None
        if len(written) > MOST_BYTES:
            raise ValueError(f"the schema has more than {MOST_BYTES:,} bytes")
        # a copy, as the caller may change its own
        return dict(json.loads(written))

    def written(self) -> str:
        """Return the schema that answers follow. Raises ValueError for one that is refused."""
        return _meant(_written(self.json_schema), bool(self.strict))


class JsonSchemaFormat(_Json):
    """JSON that is valid by a JSON schema."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: NamedSchema

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        _check(self.grammar())
        if (why := not_a_schema(self.json_schema.written())) is not None:
            raise ValueError(why)
        return self

    def grammar(self) -> str:
        return _json_grammar(self.json_schema.written())

    def parse(self, text: str) -> Any:
        """Return the value of the JSON in `text`.

        Raises AnswerTooLong as for any JSON, and InvalidJob if the schema cannot be kept to: the value is not valid.
        """
        value = super().parse(text)
        if (keyword := violated(self.json_schema.written(), value)) is not None:
            raise InvalidJob(f"the schema cannot be enforced: an answer was generated that breaks its {keyword}")
        return value


class ChoiceFormat(Frozen):
    """Exactly one of the choices."""

    type: Literal["choice"] = "choice"
    choices: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        min_length=1, max_length=MOST_CHOICES
    )
    #: whether the answer tells how probable each choice is (`Answer.choices`); its text is then the likeliest one. The
    #: probability is the model's own, whatever the job's temperature
    probabilities: Annotated[StrictBool, BeforeValidator(lambda given: False if given is None else given)] = False

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("a choice is given twice")
        if any(choice != choice.strip() for choice in self.choices):
            raise ValueError("a choice must not begin or end with a space")
        if sum(len(choice.encode()) for choice in self.choices) > MOST_BYTES:
            raise ValueError(f"the choices have more than {MOST_BYTES:,} bytes together")
        _check(self.grammar())
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if not self.probabilities:
            # workers of earlier releases refuse it
            fields.pop("probabilities", None)
        return fields

    def grammar(self) -> str:
        return one_of(self.choices)

    def parse(self, text: str) -> Any:
        """Return `text`, which is one of the choices. Raises AnswerTooLong if it was cut."""
        if text not in self.choices:
            raise AnswerTooLong("the answer is none of the choices: it was cut")
        return text


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | ChoiceFormat, Field(discriminator="type")]


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), allow_nan=False)


# cached: a bulk submission has the same format in each of a million jobs
@lru_cache(maxsize=64)
def _meant(schema: str, strict: bool) -> str:
    try:
        return _written(meant(json.loads(schema), strict))
    except RecursionError:
        raise ValueError("the schema is nested too deep") from None


@lru_cache(maxsize=64)
def _json_grammar(schema: str) -> str:
    return json_grammar(schema)


def _check(grammar: str) -> None:
    if (why := _refusal(grammar)) is not None:
        raise ValueError(why)


@lru_cache(maxsize=64)
def _refusal(grammar: str) -> str | None:
    return refusal(grammar)
