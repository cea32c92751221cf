"""The base of job models: immutable, strict, with error messages that quote no user data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


class Frozen(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def names_of(models: Iterable[type[Frozen]]) -> frozenset[str]:
    """Return the names of the models' fields in JSON."""
    return frozenset(field.alias or name for model in models for name, field in model.model_fields.items())


def explain(error: ValidationError, names: Collection[str]) -> str:
    """Return a validation error in one line, without the values, which may be user data.

    Only keys in `names` are quoted to show where the error is.
    """
    return "; ".join(
        f"{_place(entry, names)}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _place(entry: Mapping[str, Any], names: Collection[str]) -> str:
    # a key of metadata and an unknown field are user data; an unknown field is quoted if it looks like a field's name
    unknown = entry["type"] == "extra_forbidden"
    words = (
        str(part) if isinstance(part, int) or part in names or (unknown and _NAME.fullmatch(part)) else "?"
        for part in entry["loc"]
    )
    return ".".join(words) or "job"


def shown(name: str) -> str:
    """Return an unknown field's name for an error message, or ? if it does not look like a field's name."""
    return name if _NAME.fullmatch(name) else "?"
