"""Rows: the jobs of a bulk submission before their images are read, and rows that cannot become jobs."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from producer.images.parts import source_uses, with_sources
from vqa.errors import InvalidJob, VQAError
from vqa.jobs.job import Job

#: characters of a custom_id
MAX_ID_LENGTH = 512

#: fields of a job that a row, or the defaults for rows, may set; the submission sets the others
JOB_FIELDS: Final = frozenset(Job.model_fields) - {"id", "batch", "messages", "version"}


@dataclass(frozen=True, slots=True)
class Row:
    """A valid row."""

    #: line of its input, from 1; of Parquet: record; of images: image
    number: int
    #: 1 to 512 printable characters, unique in a submission
    custom_id: str
    #: fields of a job, without id and batch. In `messages`, each content is a list of the parts of
    #: `producer.images.parts`, where a source is file:<absolute path>, data:image/...;base64,..., sha256:<64 hex
    #: digits>, img_... or a URL to fetch
    fields: Mapping[str, Any]
    #: the model that a row of an OpenAI Batch file names, which counts only where workers were given names. Not part of
    #: the digest, or rows of a batch that an earlier release began would be sent again
    named: str | None = None

    def digest(self) -> str:
        """Return the SHA-256 of the row in hex, by which a later run recognises it.

        It covers path, size and modification time of files, as in rsync and make, but not their content. A missing file
        has a digest, too.
        """
        files = [[source, *_file_stamp(source)] for source in image_sources(self) if source.startswith("file:")]
        text = json.dumps([self.custom_id, self.fields, files], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def job(self, id: str, contents: Mapping[str, bytes | str], **extra: Any) -> Job:
        """Build the job. Raises InvalidJob.

        `contents` maps sources to bytes or references into the image store. It must contain the sources of all files;
        other sources are valid as they are. `extra` fields override those of the row.
        """
        messages = with_sources(self.fields["messages"], contents)
        return Job(**{**self.fields, **extra, "id": id, "messages": messages})


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot become a job."""

    number: int
    #: None if it is missing or invalid
    custom_id: str | None
    error: VQAError
    #: further lines of the input that were read as part of this row
    swallowed: int = 0


def image_sources(row: Row) -> tuple[str, ...]:
    """Return the sources of the row's images, frames and video files in order, without repetitions."""
    return tuple(source_uses(row.fields["messages"]))


def _file_stamp(source: str) -> tuple[int, int] | tuple[()]:
    try:
        info = os.stat(source.removeprefix("file:"))
    except OSError:
        return ()
    return info.st_size, info.st_mtime_ns


def valid_id(custom_id: object) -> str | None:
    """Return `custom_id` as a string if it is valid, else None."""
    try:
        return require_id(custom_id, "id")
    except InvalidJob:
        return None


def require_id(custom_id: object, name: str) -> str:
    """Return `custom_id`, which the input calls `name`, as a string. Raises InvalidJob if it is invalid.

    Numbers are valid. A whole number has no decimal point: pandas makes floats of a column with gaps.
    """
    if isinstance(custom_id, float | Decimal) and math.isfinite(custom_id):
        custom_id = int(custom_id) if custom_id == int(custom_id) else str(custom_id)
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        custom_id = str(custom_id)
    if custom_id is None or custom_id == "" or custom_id != custom_id:
        raise InvalidJob(f"{name}: missing")
    if not isinstance(custom_id, str):
        raise InvalidJob(f"{name}: must be a string or a number, not {type(custom_id).__name__}")
    if len(custom_id) > MAX_ID_LENGTH:
        raise InvalidJob(f"{name}: has {len(custom_id):,} characters; at most {MAX_ID_LENGTH} are allowed")
    for place, char in enumerate(custom_id, start=1):
        if not char.isprintable():
            raise InvalidJob(f"{name}: character {place} (U+{ord(char):04X}) is not printable")
    return custom_id


def question_messages(parts: Sequence[Mapping[str, Any]], question: str) -> list[dict[str, Any]]:
    """Return the messages of a row that shows images and asks one question. Raises InvalidJob if that is empty."""
    if not question.strip():
        raise InvalidJob("question: it is empty")
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def rows_of_images(
    number: int,
    custom_id: str,
    parts: Sequence[Mapping[str, Any]],
    questions: Sequence[str],
    fields: Mapping[str, Any],
) -> Iterator[Row]:
    """Yield a row per question about the same images; the second's id ends in #2, and so on. Raises InvalidJob."""
    for index, question in enumerate(questions, start=1):
        row_id = custom_id if index == 1 else require_id(f"{custom_id}#{index}", "custom_id")
        yield Row(number, row_id, {**fields, "messages": question_messages(parts, question)})
