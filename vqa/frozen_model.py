"""What jobs are made of: data that is checked where it is made and never changed after."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


class Frozen(BaseModel):
    """Immutable, and a field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def names_of(models: Iterable[type[Frozen]]) -> frozenset[str]:
    """Of their fields, as JSON has them."""
    return frozenset(field.alias or name for model in models for name, field in model.model_fields.items())


def explain(error: ValidationError, names: Collection[str]) -> str:
    """A validation error in one line: where and what, and nothing of the values (they may be a user's words).

    `names` may be told of where it is.
    """
    return "; ".join(
        f"{_place(entry, names)}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _place(entry: Mapping[str, Any], names: Collection[str]) -> str:
    # a key of metadata, or a field that does not exist, is the caller's own word: named where it looks like a field
    misspelt = entry["type"] == "extra_forbidden"
    words = (
        str(part) if isinstance(part, int) or part in names or (misspelt and _NAME.fullmatch(part)) else "?"
        for part in entry["loc"]
    )
    return ".".join(words) or "job"


def shown(name: str) -> str:
    """A field that does not exist, for a message: it is the user's word, and told where it looks like a field."""
    return name if _NAME.fullmatch(name) else "?"
