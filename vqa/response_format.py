"""The form that an answer is to have, as OpenAI's API writes it, with a list of choices besides.

An answer in a form is made token by token under a grammar (llguidance's), so it has that form however the model would
have gone on; only one that is cut has not. Here the grammar is written, and tried once, where the job is made.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import from_json

from vqa.errors import AnswerTooLong
from vqa.frozen_model import Frozen
from vqa.grammar import json_grammar, one_of, refusal

#: bytes of a schema as JSON, and of all choices together
MOST_BYTES = 64 * 1024

MOST_CHOICES = 1000


class TextFormat(Frozen):
    """Any text, as without a format."""

    type: Literal["text"] = "text"

    def grammar(self) -> str | None:
        """Nothing is asked of the text."""
        return None

    def parse(self, text: str) -> Any:
        """A text has no value beside itself."""
        return None


class _Json(Frozen):
    def parse(self, text: str) -> Any:
        """The value that `text` is JSON of. Raises AnswerTooLong where it holds what no number and no list can be."""
        try:
            value = from_json(text)
            # a number past the largest becomes an infinity, which is no JSON again
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise AnswerTooLong("the structured answer has a number too long, or lists too deep, to be read") from None
        return value


class JsonObjectFormat(_Json):
    """A JSON object, whatever is in it."""

    type: Literal["json_object"] = "json_object"

    def grammar(self) -> str:
        """Of any object."""
        return _json_grammar('{"type":"object"}')


class NamedSchema(Frozen):
    """A JSON schema under a name; name and description are for the caller alone."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(default=None, max_length=4096)
    #: its properties come in the answer in their order here
    json_schema: dict[str, Any] = Field(alias="schema")
    #: taken and without effect: every answer keeps to its schema
    strict: bool | None = None

    @field_validator("json_schema")
    @classmethod
    def _is_json(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            written = _written(schema)
        except (ValueError, TypeError, RecursionError):
            raise ValueError("a schema is JSON; this is not, or is nested too deep") from None
        if len(written) > MOST_BYTES:
            raise ValueError(f"a schema has at most {MOST_BYTES:,} bytes")
        # whatever is done to the caller's own afterwards
        return dict(json.loads(written))


class JsonSchemaFormat(_Json):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: NamedSchema

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        _check(self.grammar())
        return self

    def grammar(self) -> str:
        """Of the schema's values, on one line."""
        return _json_grammar(_written(self.json_schema.json_schema))


class ChoiceFormat(Frozen):
    """One of these, to the letter."""

    type: Literal["choice"] = "choice"
    choices: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        min_length=1, max_length=MOST_CHOICES
    )

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("the same choice is there twice")
        if any(choice != choice.strip() for choice in self.choices):
            raise ValueError("a choice neither begins nor ends with a space")
        if sum(len(choice.encode()) for choice in self.choices) > MOST_BYTES:
            raise ValueError(f"all choices together have at most {MOST_BYTES:,} bytes")
        _check(self.grammar())
        return self

    def grammar(self) -> str:
        """Of the choices."""
        return one_of(self.choices)

    def parse(self, text: str) -> Any:
        """The choice that `text` is. Raises AnswerTooLong for a part of one."""
        if text not in self.choices:
            raise AnswerTooLong("the answer is none of the choices: it was cut")
        return text


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | ChoiceFormat, Field(discriminator="type")]


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), allow_nan=False)


# a bulk submission has one format in a million jobs


@lru_cache(maxsize=64)
def _json_grammar(schema: str) -> str:
    return json_grammar(schema)


def _check(grammar: str) -> None:
    if (why := _refusal(grammar)) is not None:
        raise ValueError(why)


@lru_cache(maxsize=64)
def _refusal(grammar: str) -> str | None:
    return refusal(grammar)
