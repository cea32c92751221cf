"""What a row in the short form or of a table shows: images, or one video, with the fields that say how.

{"image": "cat.jpg", "detail": "high"}
{"images": ["a.tif", "b.jpg"], "pages": "2-3"}
{"video": "clip.mp4", "fps": 1, "max_frames": 32}
{"frames": ["1.jpg", "2.jpg"], "times_s": [0, 0.5]}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vqa.errors import InvalidJob

#: fields of images, and of videos
_IMAGE_FIELDS: Final = frozenset({"detail", "pages"})
_VIDEO_FIELDS: Final = frozenset({"detail", "fps", "max_frames", "times_s"})

#: fields of a row that shape its part; others are the job's
PART_FIELDS: Final = _IMAGE_FIELDS | _VIDEO_FIELDS

#: fields of a row that a column of a table may be
FIELD_COLUMNS: Final = PART_FIELDS | {"video", "frames", "max_image_tokens", "shrink_images"}

#: fields of a row, of which it has one
SOURCE_FIELDS: Final = ("image", "images", "video", "frames")

#: from a path or URL to a source; raises InvalidJob or BadImage
Locate = Callable[[str], str]


def visual_parts(row: Mapping[str, Any], locate: Locate) -> list[dict[str, Any]]:
    """Return the parts of a row's message that show something. Raises InvalidJob, BadImage."""
    named = [name for name in SOURCE_FIELDS if name in row]
    if len(named) > 1:
        raise InvalidJob(f"{named[0]} and {named[1]}: only one of them is allowed")
    match named:
        case ["video"]:
            return [_video("video", _text(row, "video", locate), row)]
        case ["frames"]:
            return [_video("frames", _texts(row, "frames", locate), row)]
        case ["images"]:
            return image_parts(_texts(row, "images", locate), row)
    return image_parts([_text(row, "image", locate)], row)


def image_parts(sources: Sequence[str], row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a part for each image. Raises InvalidJob if the row has a field that only videos have."""
    if others := sorted(row.keys() & (_VIDEO_FIELDS - _IMAGE_FIELDS)):
        raise InvalidJob(f"{others[0]}: only for frames or a video")
    how = {name: row[name] for name in sorted(_IMAGE_FIELDS) if row.get(name) is not None}
    return [{"type": "image", "image": source, **how} for source in sources]


def _video(name: str, source: str | list[str], row: Mapping[str, Any]) -> dict[str, Any]:
    if "pages" in row:
        raise InvalidJob("pages: only for images")
    how = {field: row[field] for field in sorted(_VIDEO_FIELDS) if row.get(field) is not None}
    return {"type": "video", name: source, **how}


def _text(row: Mapping[str, Any], name: str, locate: Locate) -> str:
    if not isinstance(value := row.get(name), str):
        raise InvalidJob(f"{name}: a string is required")
    return locate(value)


def _texts(row: Mapping[str, Any], name: str, locate: Locate) -> list[str]:
    values = row[name]
    if not isinstance(values, list) or not values or not all(isinstance(each, str) for each in values):
        raise InvalidJob(f"{name}: must be a non-empty list of strings")
    return [locate(each) for each in values]
