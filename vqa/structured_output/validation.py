"""Checks that a structured answer is valid by its schema, so that no mistake of the grammar library goes out.

jsonschema-rs is imported for the first schema.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema_rs import Validator


#: keywords that messages may quote
_KEYWORDS = {
    *("type", "enum", "title", "description", "format", "anyOf", "allOf", "oneOf", "$ref", "$defs", "$id", "$anchor"),
    *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
    *("items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


@lru_cache(maxsize=64)
def not_a_schema(schema: str) -> str | None:
    """Return why a text (JSON) is no JSON schema, quoting no user data; None if it is one."""
    import jsonschema_rs

    try:
        _validator(schema)
    except jsonschema_rs.ValidationError as error:
        keyword = next((part for part in reversed(error.instance_path) if part in _KEYWORDS), None)
        return "it is not a valid JSON schema" + (f": see {keyword}" if keyword else "")
    return None


def violated(schema: str, value: Any) -> str | None:
    """Return the first keyword of a schema (in JSON) that the value breaks; None if the value is valid."""
    error = next(_validator(schema).iter_errors(value), None)
    return None if error is None else error.kind.name


@lru_cache(maxsize=64)
def _validator(schema: str) -> Validator:
    from jsonschema_rs import RegexOptions, validator_for

    # patterns are matched in linear time; nothing is fetched
    return validator_for(json.loads(schema), validate_formats=False, pattern_options=RegexOptions(), offline=True)
