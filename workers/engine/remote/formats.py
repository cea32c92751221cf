"""Grammars as `response_format`, and the answers to it.

`vqa.structured_output.grammar` makes grammars of two kinds; both say what they were made from. Choices are sent as a
JSON schema, too, the one kind of constraint that all servers have; the answer is then a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import InvalidJob
from vqa.structured_output.json_schema import meant
from vqa.structured_output.validation import violated

#: of `vqa.structured_output.grammar.json_grammar`: how llguidance writes JSON
_GUIDANCE = "x-guidance"

_START, _OR = "start: ", " | "


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What an answer must be: JSON by a schema, or one of several choices."""

    schema: Mapping[str, Any]
    choices: tuple[str, ...] = ()

    @classmethod
    def from_grammar(cls, grammar: str) -> AnswerFormat:
        """Invert `vqa.structured_output.grammar.json_grammar` and `one_of`. Raises InvalidJob for another grammar."""
        try:
            if grammar.startswith(_START):
                choices = _literals(grammar.removeprefix(_START))
                return cls({"type": "string", "enum": list(choices)}, choices)
            [made] = json.loads(grammar)["grammars"]
            return cls({key: value for key, value in made["json_schema"].items() if key != _GUIDANCE})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidJob("a remote server takes JSON schemas and choices, and no other grammar") from None

    def request(self) -> dict[str, Any]:
        """Return the field `response_format`."""
        if self.schema == {"type": "object"}:
            return {"type": "json_object"}
        named: dict[str, Any] = {"name": "answer", "schema": self.schema}
        if _is_strict(self.schema):
            # OpenAI enforces only such schemas, and only if it is told so
            named["strict"] = True
        return {"type": "json_schema", "json_schema": named}

    def text(self, answer: str) -> str:
        """Return the answer's text, which is in this format. Raises InvalidJob if the server did not keep to it."""
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            raise _not_kept() from None
        if self.choices:
            if value not in self.choices:
                raise _not_kept()
            return str(value)
        if violated(json.dumps(self.schema), value) is not None:
            raise _not_kept()
        return answer


def _literals(text: str) -> tuple[str, ...]:
    """Read JSON strings joined by `|`."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while True:
        value, at = decoder.raw_decode(text, at)
        found.append(str(value))
        if at == len(text):
            return tuple(found)
        if not text.startswith(_OR, at):
            raise ValueError
        at += len(_OR)


def _is_strict(schema: Mapping[str, Any]) -> bool:
    try:
        return schema.get("type") == "object" and bool(meant(dict(schema), True) == schema)
    except ValueError:
        return False


def _not_kept() -> InvalidJob:
    return InvalidJob("the server did not keep to the response format: it may not support structured answers")
