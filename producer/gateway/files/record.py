"""The record of a file: everything but its content."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

PREFIX = "file"

#: inside `FileRecord`, `bytes` is a field
_Content = bytes


def record_key(id: str) -> str:
    return f"vqa:file:{id}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's description; times are in seconds since 1970."""

    id: str
    #: size
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str

    def to_object(self) -> dict[str, Any]:
        """Return OpenAI's file object."""
        return {**asdict(self), "object": "file", "status": "processed", "status_details": None}

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: _Content | None) -> Self | None:
        """Read what `to_json` wrote; None if there is nothing, or another program has written it."""
        with suppress(ValueError, TypeError, RecursionError):
            return cls(**json.loads(text or b""))
        return None
