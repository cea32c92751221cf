"""Which images of a row or a job may be scaled before they are stored, and in which detail they are shown.

Not the files and frames of videos, images with a choice of pages, and images that are shown in several details.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from producer.images.parts import Part, part_sources
from vqa.jobs.job import Job
from vqa.jobs.message import Detail, ImagePart

_DETAILS = frozenset(get_args(Detail))


def details_of_messages(messages: Iterable[Mapping[str, Any]]) -> dict[str, Detail]:
    """Return the details by source, of messages that are no job's yet."""
    parts = (part for message in messages for part in message["content"])
    return _only((source, _detail(part)) for part in parts for source in part_sources(part))


def details_of_job(job: Job) -> dict[bytes | str, Detail]:
    """Return the details by image, as bytes or by name."""
    return _only(_shown(job))


def _shown(job: Job) -> Iterator[tuple[bytes | str, Detail | None]]:
    for part in (part for message in job.messages for part in message.visuals()):
        detail = part.detail if isinstance(part, ImagePart) and part.pages is None else None
        yield from ((image, detail) for image in part.contents)


def _detail(part: Part) -> Detail | None:
    detail: Detail = part.get("detail") or "auto"
    # a wrong one is told when the job is made
    return detail if part["type"] == "image" and part.get("pages") is None and detail in _DETAILS else None


def _only(shown: Iterable[tuple[Any, Detail | None]]) -> dict[Any, Detail]:
    found: dict[Any, set[Detail | None]] = {}
    for source, detail in shown:
        found.setdefault(source, set()).add(detail)
    only = {source: details.pop() for source, details in found.items() if len(details) == 1}
    return {source: detail for source, detail in only.items() if detail is not None}
