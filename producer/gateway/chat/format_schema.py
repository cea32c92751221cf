"""Response formats for the OpenAPI document; `vqa.structured_output.response_format` checks them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vqa.structured_output.response_format import MOST_CHOICES


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextFormat(_Format):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(_Format):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Format):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(default=None, max_length=4096)
    json_schema: dict[str, Any] = Field(alias="schema", examples=[{"type": "object"}])
    strict: bool | None = Field(
        default=None, description="every object is closed and has all of its properties, as in OpenAI's strict schemas"
    )


class JsonSchemaFormat(_Format):
    """JSON that is valid by a schema, as in OpenAI's API."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


#: no white space at its ends
Choice = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^\S([\s\S]*\S)?$")]


class ChoiceFormat(_Format):
    """Exactly one of the choices; not in OpenAI's API."""

    type: Literal["choice"]
    choices: list[Choice] = Field(min_length=1, max_length=MOST_CHOICES, json_schema_extra={"uniqueItems": True})
    probabilities: bool | None = Field(
        default=None, description="the answer tells how probable each choice is (`vqa.choices`)"
    )


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | ChoiceFormat
