"""What a user's JSON schema means, written so that the grammar and the validator read it alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = dict[str, Any]

#: optional properties of one object. Any of them may be next: one token's mask over 151,936 tokens takes up to 1.5 ms
#: with 200 of them, 8 ms with 500 and 33 ms with 1,000 (CPU time here), and all rows of a step wait for it
MOST_OPTIONAL: Final = 200

#: keywords whose value is a schema, a list of schemas, or schemas by name
_ONE = ("additionalProperties", "items")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")

#: keywords that $ref refers to, which stay where they are
_ANCHORS = frozenset({"$id", "$anchor", "$defs", "definitions"})

#: keywords that combine a schema with others, so that it may not be closed on its own
_COMBINING = frozenset({"anyOf", "allOf", "oneOf", "$ref"})

#: keywords that say which other properties an object has
_OPEN = frozenset({"additionalProperties", "patternProperties"})

#: formats of OpenAPI and pydantic that say how a program stores a value, not which text it is
_STORAGE_FORMATS = {
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "decimal"),
    *("password", "binary", "byte", "base64", "base64url", "json-string", "color", "name-email", "multi-host-uri"),
    *("path", "file-path", "directory-path", "new-path"),
    *("ipv4network", "ipv6network", "ipv4interface", "ipv6interface"),
    *("ipvanyaddress", "ipvanyinterface", "ipvanynetwork"),
}

_YEAR = "([1-9][0-9]{3}|0[0-9]{2}[1-9]|0[0-9][1-9]0|0[1-9]00)"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"({_YEAR}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"

#: exact patterns of formats (RFC 3339) that llguidance takes too widely: it has February 29 in every year
_PATTERNS = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T{_TIME}$", "time": f"^{_TIME}$"}


def meant(schema: Schema, strict: bool) -> Schema:
    """Return the schema that answers follow.

    An object that names its properties has no others, unless it says so; `strict` also requires all of them, as OpenAI
    does. Keywords without effect are dropped, those of earlier drafts and of OpenAPI 3.0 are translated. Raises
    ValueError for what is refused.
    """
    closes = strict or not any(_is_combined(each) for each in subschemas(schema))
    return dict(_meant(schema, strict, closes))


def _meant(schema: Any, strict: bool, closes: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = {name: value for name, value in schema.items() if name not in ("$schema", "additionalItems")}
    if isinstance(made.get("items"), list):
        # drafts up to 2019-09; elsewhere additionalItems has no effect, but llguidance goes by it
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in schema:
            made["items"] = schema["additionalItems"]
    for name in _ONE:
        if isinstance(made.get(name), dict):
            made[name] = _meant(made[name], strict, closes)
    for name in _LISTS:
        if isinstance(made.get(name), list):
            made[name] = [_meant(each, strict, closes) for each in made[name]]
    for name in _NAMED:
        if isinstance(made.get(name), dict):
            made[name] = {key: _meant(each, strict, closes) for key, each in made[name].items()}
    if strict and _is_object(made):
        _make_strict(made)
    elif closes and _names_all(made):
        made["additionalProperties"] = False
    _refuse_many_optional(made)
    _bound(made)
    return _nullable(_with_exact_format(made))


def subschemas(schema: Any) -> Iterator[Schema]:
    """Yield the schema and those in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner: list[Any] = [schema.get(name) for name in _ONE]
    for name in _LISTS:
        inner += value if isinstance(value := schema.get(name), list) else ()
    for name in _NAMED:
        inner += value.values() if isinstance(value := schema.get(name), dict) else ()
    for each in inner:
        yield from subschemas(each)


def _is_combined(schema: Schema) -> bool:
    """Whether an object is put together of several schemas, each of which says nothing of the others' properties."""
    several = isinstance(parts := schema.get("allOf"), list) and len(parts) > 1
    return several or ("properties" in schema and not _COMBINING.isdisjoint(schema))


def _is_object(schema: Schema) -> bool:
    return schema.get("type") == "object" or "properties" in schema


def _properties(schema: Schema) -> Mapping[str, Any]:
    return names if isinstance(names := schema.get("properties"), dict) else {}


def _required(schema: Schema) -> frozenset[str]:
    names = schema.get("required")
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _names_all(schema: Schema) -> bool:
    names = _properties(schema)
    least = schema.get("minProperties", 0)
    enough = not isinstance(least, int) or least <= len(names)
    return bool(names) and _OPEN.isdisjoint(schema) and _required(schema) <= names.keys() and enough


def _make_strict(schema: Schema) -> None:
    if schema.setdefault("additionalProperties", False) is not False:
        raise ValueError("strict closes every object: additionalProperties must be false or left out")
    # one that is no property leaves no valid value, which is refused
    schema["required"] = [*_properties(schema), *sorted(_required(schema) - _properties(schema).keys())]


def _refuse_many_optional(schema: Schema) -> None:
    if (optional := len(_properties(schema).keys() - _required(schema))) > MOST_OPTIONAL:
        raise ValueError(
            f"an object has {optional:,} optional properties; at most {MOST_OPTIONAL} are allowed, as every other "
            "answer would wait for it: list properties in required, or split the object"
        )


def _bound(schema: Schema) -> None:
    """Write the bounds of numbers so that the grammar keeps to them."""
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        # drafts up to 4, and OpenAPI 3.0
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and plain in schema:
            schema[exclusive] = schema.pop(plain)
    low, high = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
    least, most = _limit(schema, "minimum"), _limit(schema, "maximum")
    floor = max((each for each in (low, least) if each is not None), default=-math.inf)
    ceiling = min((each for each in (high, most) if each is not None), default=math.inf)
    # llguidance 1.9 takes an excluded whole number itself if the other bound is less than 1 away
    if not 0 < (width := ceiling - floor) < 1:
        return
    if low is not None and low == floor and low.is_integer():
        schema["exclusiveMinimum"] = low + _step(low, width)
    if high is not None and high == ceiling and high.is_integer():
        schema["exclusiveMaximum"] = high - _step(high, width)


def _limit(schema: Schema, name: str) -> float | None:
    value = schema.get(name)
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def _step(bound: float, width: float) -> float:
    return min(max(1e-12, 4 * math.ulp(bound)), width / 4)


def _with_exact_format(schema: Schema) -> Schema:
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    format = schema.get("format")
    if not isinstance(format, str):
        return schema
    if format in _STORAGE_FORMATS:
        del schema["format"]
    elif format in _PATTERNS and "pattern" not in schema:
        del schema["format"]
        schema["pattern"] = _PATTERNS[format]
    return schema


def _nullable(schema: Schema) -> Schema:
    if not isinstance(schema.get("nullable"), bool) or not schema.pop("nullable"):
        return schema
    anchors = {name: value for name, value in schema.items() if name in _ANCHORS}
    rest = {name: value for name, value in schema.items() if name not in _ANCHORS}
    return {**anchors, "anyOf": [rest, {"type": "null"}]}
