"""The images of a message's part before it is a job's: what each part shows, by the sources that a caller named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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


def message_parts(messages: Iterable[Mapping[str, Any]]) -> Iterator[Part]:
    """Yield the parts of all messages, whose contents are lists of parts."""
    return (part for message in messages for part in message["content"])


def all_sources(messages: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return the sources in order, without repetitions."""
    return tuple(dict.fromkeys(source for part in message_parts(messages) for source in part_sources(part)))


def video_files(messages: Iterable[Mapping[str, Any]]) -> frozenset[Any]:
    """Return the sources that are files of videos."""
    parts = message_parts(messages)
    return frozenset(part["video"] for part in parts if part["type"] == "video" and part.get("video") is not None)


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
