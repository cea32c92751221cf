"""Bulk files: one JSON object a line, in and out, streamed. A line that is no job is told by its number and reason.

In: `{"id": "q1", "image": "pictures/cat.jpg", "question": "What is on the mat?"}`, with any other field of a job;
`expected` may stand there for whoever marks the answers. Pictures are found from the file's folder.
Out: `{"id": "q1", "answer": "A cat", ...}` or `{"id": "q1", "error": {"code": "bad_image", "message": "..."}}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from vqa.answer import Answer
from vqa.errors import InvalidJob, VQAError
from vqa.image import open_image
from vqa.job import Job
from vqa.outcome import Outcome
from vqa.settings import QueueSettings

#: fields of a line that are not fields of a job; `expected` is for whoever marks the answers
_OF_A_LINE = {"image", "question", "expected"}
_OF_A_JOB = set(Job.model_fields) - {"version", "messages"}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no job; `id` where it has one."""

    number: int
    id: str | None
    error: VQAError


def read_jobs(lines: Iterable[str], folder: Path, settings: QueueSettings, **defaults: Any) -> Iterator[Job | BadLine]:
    """The jobs in a bulk file, in order; `defaults` are fields of a job for lines that do not have them."""
    seen: set[int] = set()
    for number, row in _rows(lines):
        if isinstance(row, InvalidJob):
            yield BadLine(number, None, row)
            continue
        try:
            job = _job(row, folder, defaults)
            # a hash a line is all that is kept: files may be larger than memory
            if hash(job.id) in seen:
                raise InvalidJob("an earlier line has the same id")
            for part in job.images():
                if isinstance(part.image, bytes):
                    open_image(part.image, settings.image_max_bytes, settings.image_max_pixels)
        except VQAError as error:
            yield BadLine(number, _printable(row.get("id")), error)
        else:
            seen.add(hash(job.id))
            yield job


def read_ids(lines: Iterable[str]) -> Iterator[str | BadLine]:
    """The ids in a bulk file, for collecting its answers; pictures are not read."""
    for number, row in _rows(lines):
        if isinstance(row, InvalidJob):
            yield BadLine(number, None, row)
        elif isinstance(row.get("id"), str):
            yield row["id"]
        else:
            yield BadLine(number, None, InvalidJob("id: a line needs one, a string"))


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any] | InvalidJob]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, InvalidJob("not JSON")
            continue
        yield number, row if isinstance(row, dict) else InvalidJob(f"not a JSON object but {type(row).__name__}")


def _job(row: Mapping[str, Any], folder: Path, defaults: Mapping[str, Any]) -> Job:
    for name in ("id", "image", "question"):
        if not isinstance(row.get(name), str):
            raise InvalidJob(f"{name}: a line needs one, a string")
    if unknown := sorted(row.keys() - _OF_A_JOB - _OF_A_LINE):
        raise InvalidJob(f"{unknown[0]}: no such field")
    fields = {**defaults, **{name: value for name, value in row.items() if name in _OF_A_JOB}}
    # an address is left as it is, to be refused as one
    image = row["image"] if "://" in row["image"] else folder / row["image"]
    return Job.about(image, row["question"], **fields)


def _printable(id: object) -> str | None:
    return id if isinstance(id, str) and id.isprintable() else None


def open_lines(path: Path) -> TextIO:
    """A bulk file for reading; bytes that are not UTF-8 make their line a bad one, not the file."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape")


class Writer:
    """Writes outcomes as they come, each line flushed: what is there when the process ends is whole."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.answered = 0
        self.failed = 0

    def write(self, id: str | None, outcome: Outcome) -> None:
        """One job's line."""
        if isinstance(outcome, Answer):
            self.answered += 1
            row: dict[str, Any] = {"id": id, "answer": outcome.text}
            row |= outcome.model_dump(mode="json", include={"finish_reason", "usage", "timings", "model"})
        else:
            self.failed += 1
            row = {"id": id, "error": {"code": outcome.code(), "message": str(outcome)}}
        # half a surrogate pair, from a line that was not UTF-8, cannot be written
        text = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode()
        self._out.write(text + "\n")
        self._out.flush()

    def write_bad(self, line: BadLine) -> None:
        """A bad line's line."""
        self.write(line.id, type(line.error)(f"line {line.number}: {line.error}"))
