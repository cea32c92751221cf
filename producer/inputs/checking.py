"""Whether a row would be a job, found out before any of its pictures is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from producer.inputs.row import Row, pictures
from vqa.job import MOST_IMAGES, TextPart

# stands for any picture
_SOME_PICTURE = "sha256:" + "0" * 64


class Checker:
    """Checks one row after another, and most of it once: rows of one submission differ in their messages alone.

    A whole job costs 20 to 30 us; the rest of a row whose other fields are those of the row before, 3 us.
    """

    def __init__(self) -> None:
        self._good: Mapping[str, Any] | None = None

    def check(self, row: Row) -> None:
        """Raises InvalidJob where the row's job would."""
        others = {name: value for name, value in row.fields.items() if name != "messages"}
        if others == self._good and _are_messages(row.fields["messages"]):
            return
        row.job("row", dict.fromkeys(pictures(row), _SOME_PICTURE))
        self._good = others


def _are_messages(messages: list[Mapping[str, Any]]) -> bool:
    """Whether the messages, of roles and parts that are known, are a job's; where not, the job says what is wrong."""
    shown = 0
    for message in messages:
        content = message["content"]
        if not content:
            return False
        for part in content:
            if part["type"] == "image":
                shown += 1
            elif not _is_text(part):
                return False
    return bool(messages) and shown <= MOST_IMAGES


def _is_text(part: Mapping[str, Any]) -> bool:
    try:
        TextPart.model_validate(part)
    except ValidationError:
        return False
    return True
