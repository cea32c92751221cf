"""The images of a message's part before it is a job's: what each part shows, by the sources that a caller named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vqa.jobs.job import Job
from vqa.jobs.message import PAGES_PATTERN, ImagePart, VideoPart

#: a part of a message, such as {"type": "image", "image": SOURCE}, or {"type": "video", "frames": [SOURCE, ...]}
Part = Mapping[str, Any]


def part_sources(part: Part) -> Iterator[Any]:
    """Yield the sources of the image, the frames or the video file that the part shows; none of a text."""
    if part["type"] == "image":
        yield part["image"]
    elif part["type"] == "video":
        yield from part.get("frames") or ()
        if part.get("video") is not None:
            yield part["video"]


@dataclass(frozen=True, slots=True)
class Use:
    """How messages show what is at a source."""

    #: as an image: the pages of each part, None for all; as the frame of a video: the first
    pages: frozenset[str | None] = frozenset()
    #: as the file of a video
    video: bool = False

    def __or__(self, other: Use) -> Use:
        return Use(self.pages | other.pages, self.video or other.video)


#: of an image whose pages nobody chose
IMAGE = Use(frozenset({None}))
FRAME = Use(frozenset({"1"}))
VIDEO = Use(video=True)


def source_uses(messages: Iterable[Mapping[str, Any]]) -> dict[Any, Use]:
    """Return the sources in order, without repetitions, and how they are shown."""
    found: dict[Any, Use] = {}
    for part in (part for message in messages for part in message["content"]):
        for source in part_sources(part):
            found[source] = found.get(source, Use()) | _use(part, part.get("video") == source)
    return found


def job_uses(job: Job) -> dict[bytes | str, Use]:
    """Return the images of a job, as bytes or by name, and how they are shown."""
    found: dict[bytes | str, Use] = {}
    for part in (part for message in job.messages for part in message.visuals()):
        for source in part.contents:
            found[source] = found.get(source, Use()) | _part_use(part)
    return found


def _use(part: Part, is_file: bool) -> Use:
    if part["type"] == "video":
        return VIDEO if is_file else FRAME
    pages = part.get("pages")
    # a wrong choice is told when the job is made
    is_valid = isinstance(pages, str) and re.fullmatch(PAGES_PATTERN, pages)
    return Use(frozenset({pages if is_valid else None}))


def _part_use(part: ImagePart | VideoPart) -> Use:
    if isinstance(part, ImagePart):
        return Use(frozenset({part.pages}))
    return FRAME if part.video is None else VIDEO


def with_sources(messages: Iterable[Mapping[str, Any]], contents: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Return the messages with sources replaced by what `contents` has for them."""
    return [
        {**message, "content": [_with_sources(part, contents) for part in message["content"]]} for message in messages
    ]


def _with_sources(part: Part, contents: Mapping[Any, Any]) -> Part:
    if part["type"] == "image":
        return {**part, "image": contents.get(part["image"], part["image"])}
    if part["type"] != "video":
        return part
    replaced = dict(part)
    if part.get("frames"):
        replaced["frames"] = [contents.get(frame, frame) for frame in part["frames"]]
    if part.get("video") is not None:
        replaced["video"] = contents.get(part["video"], part["video"])
    return replaced
