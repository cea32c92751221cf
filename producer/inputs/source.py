"""Where rows come from: what a command's options name, and which form that has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producer.inputs.files import Form, Input


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns."""

    id: str = "id"
    image: str = "image"
    question: str = "question"


DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of one submission, of one form."""

    form: Form
    inputs: tuple[Input, ...]
    questions: tuple[str, ...] = ()
    columns: Columns = DEFAULT_COLUMNS
    #: fields of a job for rows that do not have them
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where the first input's relative images are found from."""
        return self.inputs[0].folder
