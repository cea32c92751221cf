"""Rows read from files that a test writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer.inputs import BadRow, Row, detect_source, read_rows

Read = Callable[..., list[Row | BadRow]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(row, "a line", form="short")`: the rows of a file with these lines."""

    def read(*lines: dict[str, Any] | str, **options: Any) -> list[Row | BadRow]:
        file = tmp_path / "in.jsonl"
        file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return list(read_rows(detect_source([str(file)], **options)))

    return read


def good(rows: list[Row | BadRow]) -> list[Row]:
    """The same rows, none of which is bad."""
    return [row if isinstance(row, Row) else pytest.fail(f"line {row.number}: {row.error}") for row in rows]


def question(row: Row) -> str:
    """The words of the row's last message."""
    [text] = [part["text"] for part in row.fields["messages"][-1]["content"] if part["type"] == "text"]
    return str(text)
