"""The inputs of one submission, with the options that say how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producer.inputs.files import Form, Input
from vqa.jobs.message import Detail


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names of a table."""

    id: str = "id"
    image: str = "image"
    question: str = "question"
    #: columns that are fields of the row, by their names in the short form: detail, pages, fps, ...
    fields: tuple[str, ...] = ()


DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of one submission; they have the same form."""

    form: Form
    inputs: tuple[Input, ...]
    questions: tuple[str, ...] = ()
    columns: Columns = DEFAULT_COLUMNS
    #: defaults for fields of a job, for rows that lack them
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: how large images and videos are seen that do not say it
    detail: Detail | None = None
