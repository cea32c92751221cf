"""Options that several commands of `vqa` have."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LaneName(StrEnum):
    """Which jobs go first."""

    interactive = "interactive"
    bulk = "bulk"


Lane = Annotated[LaneName, typer.Option(help="Which jobs go first: interactive before bulk.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0 gives the same answer every time.")]
TopP = Annotated[
    float | None, typer.Option(min=0.001, max=1, help="With --temperature: the likeliest tokens to draw from.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**63 - 1, help="With --temperature: the same seed, the same answer.")
]
Schema = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON schema; the answer is a value valid by it.")
]
Choice = Annotated[
    list[str] | None, typer.Option(help="The answer is one of these; may be given several times, instead of a schema.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="Where the answers go; stdout where unset.")
]


def response_format(schema: Path | None, choices: list[str] | None) -> dict[str, object] | None:
    """A job's `response_format`. Raises typer.BadParameter."""
    if schema and choices:
        raise typer.BadParameter("either a schema or choices", param_hint="--schema")
    if choices:
        return {"type": "choice", "choices": choices}
    if schema is None:
        return None
    try:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema.read_bytes())}}
    except ValueError:
        raise typer.BadParameter(f"{schema} is not JSON", param_hint="--schema") from None


def job_fields(lane: LaneName, **fields: object) -> dict[str, object]:
    """The fields of a job that were given."""
    return {"lane": lane.value, **{name: value for name, value in fields.items() if value is not None}}
