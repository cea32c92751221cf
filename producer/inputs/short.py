"""The short form: `{"id": "q1", "image": "cat.jpg", "question": "What is on the mat?"}`, one object a line.

`images`, a list, may stand in place of `image`. Any field of a job may stand beside them; `expected` is for whoever
marks the answers. A picture is a path, or a data:, file: or sha256: address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from producer.images.locations import from_text
from producer.inputs.asking import one_question
from producer.inputs.row import JOB_FIELDS, shown
from vqa.errors import InvalidJob

_OWN = frozenset({"id", "image", "images", "question", "expected"})
_KNOWN = JOB_FIELDS | _OWN


def short_fields(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A job's fields. Raises InvalidJob or BadImage."""
    if not _KNOWN.issuperset(row):
        raise InvalidJob(f"{shown(min(row.keys() - _KNOWN))}: no such field")
    question = row.get("question")
    if not isinstance(question, str):
        raise InvalidJob("question: a row needs one, a string")
    sources = [from_text(text, folder) for text in _pictures(row)]
    fields = {name: value for name, value in row.items() if name not in _OWN}
    return {**fields, "messages": one_question(sources, question)}


def _pictures(row: Mapping[str, Any]) -> list[str]:
    if "images" not in row:
        if not isinstance(image := row.get("image"), str):
            raise InvalidJob("image: a row needs one, a string")
        return [image]
    images = row["images"]
    if "image" in row:
        raise InvalidJob("image and images: a row has one of them")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise InvalidJob("images: a list of strings, at least one")
    return images
