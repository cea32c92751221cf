"""Who was in a slot when, as lines of JSON that several processes append to one file. For tests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal

from vqa.errors import NotReady
from workers.engine.base import Prompt


class Journal:
    """Each line is one write at the file's end, so lines of several processes never mix."""

    def __init__(self, path: Path) -> None:
        """Raises NotReady where the file cannot be written."""
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            raise NotReady(f"cannot write {path} (VQA_ECHO_JOURNAL): {error.strerror}") from None

    def write(self, prompt: Prompt, event: Literal["start", "end"]) -> None:
        """`at` is on `time.monotonic()`'s clock, which all processes of a machine share."""
        line = {
            "at": time.monotonic(),
            "pid": os.getpid(),
            "id": prompt.id,
            "attempt": prompt.attempt,
            "event": event,
        }
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(line)
