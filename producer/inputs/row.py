"""A row: one job of a bulk submission before its images are read, or the reason why there is none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vqa.errors import InvalidJob, VQAError
from vqa.job import Job

#: characters of a custom_id
LONGEST_ID = 512

#: fields of a job that a row, or a default for rows, may have; whoever submits gives the others
JOB_FIELDS: Final = frozenset(Job.model_fields) - {"id", "batch", "messages", "version"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one line, record or image of the input asks."""

    #: line (of Parquet: record; of images: image) of its input, from 1
    number: int
    #: 1 to 512 printable characters, unique in a submission
    custom_id: str
    #: a job's fields but its id and batch. In `messages`, each content is a list of parts, and an image's is
    #: {"type": "image", "image": SOURCE}, where SOURCE is file:<absolute path>, data:image/...;base64,... or
    #: sha256:<64 hex digits>
    fields: Mapping[str, Any]

    def digest(self) -> str:
        """SHA-256, in hex, of what is asked; of a file the path, the size and the time of its last change.

        Content is not read, as rsync and make do not read it. A file that is not there counts as such.
        """
        files = [[source, *_seen(source)] for source in image_sources(self) if source.startswith("file:")]
        text = json.dumps([self.custom_id, self.fields, files], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def job(self, id: str, contents: Mapping[str, bytes | str], **more: Any) -> Job:
        """The job: each source in `contents` is replaced by its bytes, or by its reference into the image store.

        A source that is not there stays, which a file's must not: data: and sha256: are images as they are. `more`
        are fields of the job that go before the row's own. Raises InvalidJob.
        """
        messages = [_with_images(message, contents) for message in self.fields["messages"]]
        return Job(**{**self.fields, **more, "id": id, "messages": messages})


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line, record or image that is no job."""

    number: int
    #: None where it has none that can be printed
    custom_id: str | None
    error: VQAError


def image_sources(row: Row) -> tuple[str, ...]:
    """The sources of the row's images, each once, in order."""
    return tuple(dict.fromkeys(_sources(row.fields["messages"])))


def printable(custom_id: object) -> str | None:
    """The custom_id if it may be one."""
    if isinstance(custom_id, str) and 0 < len(custom_id) <= LONGEST_ID and custom_id.isprintable():
        return custom_id
    return None


def named(custom_id: object, name: str) -> str:
    """The custom_id, which the input calls `name`. Raises InvalidJob."""
    if (fitting := printable(custom_id)) is None:
        raise no_id(name)
    return fitting


def no_id(name: str) -> InvalidJob:
    """Said of a row without a custom_id that may be one, which the input calls `name`."""
    return InvalidJob(f"{name}: a row needs one, a string of 1 to {LONGEST_ID} printable characters")


def _sources(messages: list[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield from (part["image"] for part in message["content"] if part["type"] == "image")


def _with_images(message: Mapping[str, Any], contents: Mapping[str, bytes | str]) -> Mapping[str, Any]:
    parts = [
        {"type": "image", "image": contents.get(part["image"], part["image"])} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _seen(source: str) -> tuple[int, int] | tuple[()]:
    try:
        found = os.stat(source.removeprefix("file:"))
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


def one_question(sources: Sequence[str], question: str) -> list[dict[str, Any]]:
    """The messages of a row that shows these images and then asks."""
    shown = [{"type": "image", "image": source} for source in sources]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def each_question(
    number: int, custom_id: str, source: str, questions: Sequence[str], defaults: Mapping[str, Any]
) -> Iterator[Row]:
    """A row for each question about one image; #2 follows the id of the second, and so on. Raises InvalidJob."""
    for place, question in enumerate(questions, start=1):
        own = custom_id if place == 1 else named(f"{custom_id}#{place}", "custom_id")
        yield Row(number, own, {**defaults, "messages": one_question([source], question)})
