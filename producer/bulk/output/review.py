"""Lines of REVIEW: a copy of each doubtful answer, with what people need to check it.

`{"id": CUSTOM_ID, "images", "question", "answer", "probability", "choices": {CHOICE: PROBABILITY}, "job": JOB_ID}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from producer.bulk.output.formats import LineSummary
from producer.inputs import Row, image_sources
from vqa.answer import Answer


@dataclass(frozen=True, slots=True)
class Shown:
    """What a row shows and asks."""

    #: of the last message of the user
    question: str
    #: paths, URLs, and references into the image store, in order
    images: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Row, references: Mapping[str, str]) -> Self:
        """`references` are those of images whose bytes are in the row, and may be those of others."""
        messages = [message for message in row.fields["messages"] if message["role"] == "user"]
        parts = messages[-1]["content"] if messages else ()
        question = "\n".join(part["text"] for part in parts if part["type"] == "text")
        return cls(question, tuple(_name(source, references) for source in image_sources(row)))


def _name(source: str, references: Mapping[str, str]) -> str:
    return references.get(source, "data:") if source.startswith("data:") else source.removeprefix("file:")


def is_doubtful(answer: Answer, below: float) -> bool:
    """Whether no choice is at least as probable as `below`; never of an answer without probabilities."""
    return answer.choices is not None and max(answer.choices.values()) < below


def review_line(custom_id: str | None, shown: Shown, answer: Answer) -> dict[str, Any]:
    """Return the line of an answer that has the probabilities of its choices."""
    choices = dict(answer.choices or {})
    return {
        "id": custom_id,
        "images": list(shown.images),
        "question": shown.question,
        "answer": answer.text,
        "probability": max(choices.values()),
        "choices": choices,
        "job": answer.id,
    }


def parse_review(line: bytes) -> LineSummary | None:
    """Return the row of a line of REVIEW; None if `vqa submit` did not write it."""
    try:
        fields = json.loads(line)
        id, custom_id, _ = fields["job"], fields["id"], fields["choices"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return LineSummary(id, custom_id=custom_id) if isinstance(id, str) else None
