"""Rows that ask one question or several about pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from producer.inputs.row import Row, named


def one_question(sources: Sequence[str], question: str) -> list[dict[str, Any]]:
    """The messages of a row that shows these pictures and then asks."""
    shown = [{"type": "image", "image": source} for source in sources]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def each_question(
    number: int, custom_id: str, source: str, questions: Sequence[str], defaults: Mapping[str, Any]
) -> Iterator[Row]:
    """A row for each question about one picture; #2 follows the id of the second, and so on. Raises InvalidJob."""
    for place, question in enumerate(questions, start=1):
        own = custom_id if place == 1 else named(f"{custom_id}#{place}", "custom_id")
        yield Row(number, own, {**defaults, "messages": one_question([source], question)})
