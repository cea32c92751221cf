"""Where rows come from: what a command's options name, and which form that has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel

from producer.inputs.asking import one_question
from producer.inputs.detect import opened
from producer.inputs.input import Form, Input
from producer.inputs.row import JOB_FIELDS, shown
from vqa.errors import InvalidJob, SettingsError
from vqa.job import Job


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns."""

    id: str = "id"
    image: str = "image"
    question: str = "question"


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of one submission, of one form."""

    form: Form
    inputs: tuple[Input, ...]
    questions: tuple[str, ...] = ()
    columns: Columns = Columns()
    #: fields of a job for rows that do not have them
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where the first input's relative pictures are found from."""
        return self.inputs[0].folder

    @classmethod
    def of(
        cls,
        inputs: Sequence[str],
        *,
        form: Form | Literal["auto"] = "auto",
        questions: Sequence[str] = (),
        columns: Columns = Columns(),
        defaults: Mapping[str, Any] | None = None,
    ) -> Self:
        """The source that the options name. Raises SettingsError for what cannot be read at all."""
        plain = _plain(defaults or {})
        found, all_inputs = opened(inputs, form)
        if found == "pictures" and not questions:
            raise SettingsError("pictures need a question: --question 'What is on it?'")
        if questions and found in ("openai", "short"):
            raise SettingsError("--question is for pictures and tables; rows of these files have their own")
        return cls(found, all_inputs, tuple(questions), columns, plain)


def _plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them, and such as a job takes."""
    if unknown := sorted(defaults.keys() - JOB_FIELDS):
        raise SettingsError(f"{shown(unknown[0])}: no field of a job that rows may share")
    try:
        Job(id="defaults", messages=one_question([], "?"), **defaults)
    except InvalidJob as error:
        raise SettingsError(str(error)) from None
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in defaults.items()
    }
