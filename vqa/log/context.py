"""What a thread or task works on, for its log lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Field = str | int

#: fields of all lines of this process: the worker's name
_process: dict[str, Field] = {}

_NOTHING: Mapping[str, Field] = {}
_context: ContextVar[Mapping[str, Field]] = ContextVar("vqa_log", default=_NOTHING)


def add_process_fields(**fields: Field) -> None:
    """Add fields to all lines that this process logs from now on."""
    _process.update(fields)


@contextmanager
def logging_about(**fields: Field | None) -> Iterator[None]:
    """Add fields to the lines that are logged inside the block; those that are None are left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _context.set({**_context.get(), **known})
    try:
        yield
    finally:
        _context.reset(token)


def log_fields() -> dict[str, Field]:
    """Return the fields for a line that is logged here and now."""
    return {**_process, **_context.get()}
